# What one does here: `make run` to see it, `make test` to check it.

# The profile of the binaries that `make run` builds. `quick` is optimised a little; `release` would
# take twice as long to build and gain a run nothing. `dev` shares what `cargo test` built.
RUN_PROFILE ?= quick
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RUN_BIN := $(TARGET_DIR)/$(patsubst dev,debug,$(RUN_PROFILE))
# What `make run` takes: ARGS=--once ends it after the last step, STATE_DIR=… keeps its state.
ARGS ?=
STATE_DIR ?=

.DEFAULT_GOAL := help
.PHONY: help run build test check unit interop fmt bench bench-quick fuzz

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: ## Builds what is missing and shows an identity being issued
	@command -v cargo >/dev/null || { echo "cargo is missing: https://rustup.rs installs it"; exit 1; }
	@command -v cc >/dev/null || { echo "a C compiler is missing: apt-get install gcc"; exit 1; }
	@test -x $(RUN_BIN)/spire-server || echo "The first build takes about ten minutes on two cores;" \
	  "after that, make run is a matter of seconds."
	@cargo build --locked --profile $(RUN_PROFILE) -p steeple-server -p steeple-agent -p steeple-demo
	@$(RUN_BIN)/steeple-demo --bin $(RUN_BIN) $(if $(STATE_DIR),--state-dir "$(STATE_DIR)") $(ARGS)

build: ## Builds the three programs as they are shipped (twenty minutes on two cores)
	cargo build --locked --release -p steeple-server -p steeple-agent -p steeple-oidc

test: check unit interop bench-quick ## Runs everything that CI runs

check: ## Formatting, lints, layers, tidiness, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo xtask layers
	cargo xtask tidy
	@if cargo deny --version >/dev/null 2>&1; then \
	   cargo deny --locked check bans licenses sources && \
	   if cargo deny fetch db >/dev/null 2>&1; then cargo deny --locked check advisories; \
	   else echo "skipped: cargo deny advisories: the advisory database cannot be reached"; fi; \
	 else echo "skipped: cargo deny: not installed (cargo install cargo-deny --locked)"; fi

unit: ## Unit, property and integration tests
	cargo xtask unit

interop: ## Other people's SPIFFE software against ours (Go, Python, Java with Maven)
	cargo build --locked --workspace
	@interop/run

bench: ## Speed and size of our own programs; BENCH_BIN='--bin label=folder ...' for others too
	cargo build --locked --release -p steeple-server -p steeple-agent
	cargo run --locked --release -p steeple-bench -- $(BENCH_BIN) --bin steeple=$(TARGET_DIR)/release $(ARGS)

bench-quick: ## The load generator's short run, on debug binaries: is every answer right?
	cargo build --locked --workspace
	$(TARGET_DIR)/debug/bench $(BENCH_BIN) --bin steeple=$(TARGET_DIR)/debug --quick $(ARGS)

fuzz: ## Every fuzz target for half a minute (needs a nightly toolchain and cargo-fuzz)
	@cd fuzz && for target in $$(cargo fuzz list); do \
	   echo "== $$target" && cargo fuzz run $$target -- -max_total_time=30 || exit 1; done
