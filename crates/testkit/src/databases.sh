#!/bin/sh
# A private PostgreSQL or MariaDB for tests: sh databases.sh postgres|mariadb DIR
#
# Reads commands from standard input and answers each with one line, "ok" or "failed: why":
#   init            makes the data directory, with certificates in DIR/tls
#   start PORT      starts it on 127.0.0.1:PORT and on a Unix socket in DIR
#   stop            ends it in order
#   kill            ends it on the spot
#   pause, resume   stops it from answering, and lets it go on
# When standard input ends, because whoever started this is done or dead, the database is killed
# and DIR removed. User and password are spire.
set -u
kind=$1 dir=$2 pid=

trap '' INT HUP TERM

# The databases refuse to run as root.
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid="$user" --regid="$user" --init-groups "$@"; else "$@"; fi; }

# The same in the background, without a shell between us and it.
background() {
  [ "$(id -u)" = 0 ] && set -- setpriv --reuid="$user" --regid="$user" --init-groups "$@"
  "$@" </dev/null >>"$dir/log" 2>&1 &
  pid=$!
}

find_postgres() {
  for bin in /usr/lib/postgresql/*/bin /usr/local/pgsql/bin /usr/pgsql-*/bin; do
    [ -x "$bin/postgres" ] && PATH="$bin:$PATH"
  done
  user=postgres
  command -v postgres >/dev/null && command -v initdb >/dev/null
}

find_mariadb() {
  PATH="$PATH:/usr/sbin:/usr/local/sbin"
  user=mysql
  command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null
}

certificates() {
  mkdir -p "$dir/tls" && cd "$dir/tls" || return 1
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=ca" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem || return 1
  for name in server client; do
    cn=spire; [ $name = server ] && cn=localhost
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$cn" \
      -keyout $name.key -out $name.csr || return 1
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n' >$name.ext
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
      -extfile $name.ext -out $name.pem || return 1
  done
  cd / && if [ "$(id -u)" = 0 ]; then chown -R "$user" "$dir" && chmod 0711 "$dir"; fi
  chmod 0600 "$dir/tls/server.key"
}

init_postgres() {
  as initdb -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync || return 1
  cat >"$dir/data/pg_hba.conf" <<EOF
local all all trust
host all all 127.0.0.1/32 scram-sha-256
EOF
  echo "CREATE ROLE spire SUPERUSER LOGIN PASSWORD 'spire'" |
    as postgres --single -D "$dir/data" postgres
}

init_mariadb() {
  as mariadb-install-db --no-defaults --datadir="$dir/data" --skip-test-db \
    --auth-root-authentication-method=normal --innodb-use-native-aio=0 || return 1
  cat >"$dir/init.sql" <<EOF
CREATE USER IF NOT EXISTS 'spire'@'%' IDENTIFIED BY 'spire';
GRANT ALL ON *.* TO 'spire'@'%' WITH GRANT OPTION;
EOF
  chmod 0644 "$dir/init.sql"
}

start_postgres() {
  background postgres -D "$dir/data" -p "$1" -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories="$dir" -c fsync=off -c max_connections=400 -c ssl=on \
    -c ssl_cert_file="$dir/tls/server.pem" -c ssl_key_file="$dir/tls/server.key" \
    -c ssl_ca_file="$dir/tls/ca.pem" -c deadlock_timeout=200ms
}

start_mariadb() {
  background mariadbd --no-defaults --datadir="$dir/data" --socket="$dir/mariadb.sock" --port="$1" \
    --bind-address=127.0.0.1 --pid-file="$dir/mariadb.pid" --skip-name-resolve \
    --max-connections=400 --innodb-flush-log-at-trx-commit=2 --innodb-flush-method=nosync --innodb-use-native-aio=0 --init-file="$dir/init.sql" \
    --ssl-ca="$dir/tls/ca.pem" --ssl-cert="$dir/tls/server.pem" --ssl-key="$dir/tls/server.key"
}

# It answers on its own socket, so that nobody else on the port is taken for it. (One that does not
# get the port ends by itself, before it makes the socket.)
answers_postgres() { psql -X -q -h "$dir" -p "$1" -U spire -c 'SELECT 1' postgres; }
answers_mariadb() { mariadb --no-defaults --socket="$dir/mariadb.sock" -u spire -pspire -e 'SELECT 1'; }

start() {
  "start_$kind" "$1"
  tries=0
  while [ $tries -lt 600 ]; do
    kill -0 "$pid" 2>/dev/null || { pid=; return 1; }
    if "answers_$kind" "$1" >/dev/null 2>&1; then return 0; fi
    tries=$((tries + 1))
    sleep 0.1
  done
  return 1
}

end() {
  [ -n "$pid" ] || return 0
  kill -CONT "$pid" 2>/dev/null
  if [ "$1" = KILL ]; then
    # PostgreSQL's children first hear of it from a postmaster that quits.
    if [ "$kind" = postgres ]; then kill -QUIT "$pid" 2>/dev/null; else kill -KILL "$pid" 2>/dev/null; fi
  elif [ "$kind" = postgres ]; then
    kill -INT "$pid" 2>/dev/null
  else
    kill -TERM "$pid" 2>/dev/null
  fi
  wait "$pid" 2>/dev/null
  pid=
}

# Every process of it, so that open connections hang too.
everyone() { echo "$pid $(ps -o pid= --ppid "$pid" 2>/dev/null | tr '\n' ' ')"; }

if ! "find_$kind"; then echo "missing: no $kind on this machine"; exit 1; fi
echo "ok"
while read -r command argument; do
  case $command in
    init) if (certificates && { "init_$kind" || { rm -rf "$dir/data"; "init_$kind"; }; }) >"$dir/init.log" 2>&1; then echo ok; else echo "failed: $(grep -i -m 5 error "$dir/init.log" | tr '\n' ' ') $(tail -n 3 "$dir/init.log" | tr '\n' ' ')"; fi ;;
    start) if start "$argument"; then echo ok; else end KILL; echo "failed: $(tail -n 3 "$dir/log" | tr '\n' ' ')"; fi ;;
    stop) end TERM; echo ok ;;
    kill) end KILL; echo ok ;;
    pause) kill -STOP $(everyone) 2>/dev/null; echo ok ;;
    resume) kill -CONT $(everyone) 2>/dev/null; echo ok ;;
    *) echo "failed: what is $command" ;;
  esac
done
end KILL
rm -rf "$dir"
