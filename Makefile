# What one does here: `make run` to see it, `make test` to check it.

# The profile of the binaries that `make run` builds: optimised, no LTO.
RUN_PROFILE ?= release
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run build test check unit interop fmt bench bench-quick

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

run: ## Builds what is missing and shows an identity being issued
	@echo "Building spire-server, spire-agent and the demo (from nothing: about ten minutes on two cores)."
	@cargo build --locked --profile $(RUN_PROFILE) -p steeple-server -p steeple-agent -p steeple-demo
	@target/$(RUN_PROFILE)/steeple-demo --bin target/$(RUN_PROFILE) $(ARGS)

build: ## Builds the two programs, optimised
	cargo build --locked --release -p steeple-server -p steeple-agent

test: check unit interop ## Runs everything that CI runs

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
	cargo test --locked --workspace

interop: ## Other people's SPIFFE software against ours (Go, Python, Java with Maven)
	cargo build --locked -p steeple-server -p steeple-agent
	@interop/run
