"""A private PostgreSQL or MariaDB: one for a test or a session, gone with whoever started it.

Driven by the same script as the databases of the Rust tests. Needs Debian's `postgresql` and
`mariadb-server`; raises `Missing` where they are not installed (say "skipped: …" then).
"""

import itertools
import pathlib
import random
import subprocess
import tempfile

SCRIPT = pathlib.Path(__file__).parent.parent / "crates/testkit/src/databases.sh"
USER = "spire"  # and the password


class Missing(Exception):
    """The database is not installed."""


class Database:
    """A database server of one's own: kind is "postgres" or "mariadb"."""

    def __init__(self, kind):
        self.kind = kind
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="st", dir="/tmp"))
        self._names = itertools.count()
        self._script = subprocess.Popen(
            ["sh", str(SCRIPT), kind, str(self.dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        answer = self._script.stdout.readline().strip()
        if answer != "ok":
            self.close()
            raise Missing(answer or f"no {kind} can be started here")
        self._ask("init")
        # Another program may take a port at any moment, so it is tried and not looked at.
        for attempt in range(20):
            self.port = random.randrange(20000, 32000)
            try:
                self._ask(f"start {self.port}")
                break
            except RuntimeError:
                if attempt == 19:
                    self.close()
                    raise

    def _ask(self, command):
        self._script.stdin.write(command + "\n")
        self._script.stdin.flush()
        answer = self._script.stdout.readline().strip()
        if answer != "ok":
            raise RuntimeError(f"{self.kind}: {command}: {answer}")

    def stop(self):
        """Ends it in order; its connections break."""
        self._ask("stop")

    def start(self):
        """Starts it again where it was."""
        self._ask(f"start {self.port}")

    def restart(self):
        self.stop()
        self.start()

    def kill(self):
        """Ends it on the spot."""
        self._ask("kill")

    def pause(self):
        """Lets it hang: connections stay, and nothing is answered."""
        self._ask("pause")

    def resume(self):
        self._ask("resume")

    def close(self):
        """Ends it for good and removes its files."""
        if self._script.poll() is None:
            self._script.stdin.close()
            self._script.wait(timeout=60)
        subprocess.run(["rm", "-rf", str(self.dir)], check=False)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def new_database(self):
        """Makes an empty database and answers its name."""
        name = f"t{next(self._names)}"
        self.sql("", f"CREATE DATABASE {name}")
        return name

    @property
    def database_type(self):
        """The value of `database_type` in server.conf."""
        return "postgres" if self.kind == "postgres" else "mysql"

    def connection_string(self, name):
        """The value of `connection_string` in server.conf, over TCP."""
        if self.kind == "postgres":
            return (
                f"host=127.0.0.1 port={self.port} user={USER} password={USER} "
                f"dbname={name} sslmode=disable"
            )
        return f"{USER}:{USER}@tcp(127.0.0.1:{self.port})/{name}?parseTime=true"

    def sql(self, name, statements):
        """Runs statements with the database's own client; what it printed."""
        if self.kind == "postgres":
            command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER]
            command += ["-h", str(self.dir), "-p", str(self.port), "-c", statements]
            command.append(name or "postgres")
        else:
            command = ["mariadb", "--no-defaults", "-N", "-B", "-u", USER, f"-p{USER}"]
            command += [f"--socket={self.dir}/mariadb.sock", "-e", statements, name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout.rstrip("\n")

    def dump(self, name):
        """The whole database as SQL text."""
        if self.kind == "postgres":
            command = ["pg_dump", "-U", USER, "-h", str(self.dir), "-p", str(self.port), name]
        else:
            command = ["mariadb-dump", "--no-defaults", "--hex-blob", "-u", USER, f"-p{USER}"]
            command += [f"--socket={self.dir}/mariadb.sock", name]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    def restore(self, name, dump):
        """Runs what `dump` wrote on an empty database."""
        if self.kind == "postgres":
            command = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", USER]
            command += ["-h", str(self.dir), "-p", str(self.port), name]
        else:
            command = ["mariadb", "--no-defaults", "-u", USER, f"-p{USER}"]
            command += [f"--socket={self.dir}/mariadb.sock", name]
        subprocess.run(command, input=dump, text=True, check=True, timeout=60)
