"""The lab: a PostgreSQL of its own, two Synapse on it, and our three programs beside the first.

Everything is on loopback and in one folder. A lab that is started again in the same folder goes on
with the same databases, keys and ports.
"""
import glob
import json
import os
import pwd
import signal
import subprocess
import sys
import urllib.request

import psycopg2

from processes import Failed, Program, free_port, run, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
TREE = os.path.dirname(os.path.dirname(HERE))
_PORTS = ["database", "hs1", "hs2", "hs1_plain", "hs2_plain", "tester", "outsider", "history",
          "history_metrics", "gateway", "gateway_metrics", "follower_metrics", "redis", "main", "ep1", "ep2",
          "proxy", "proxy_plain"]


def programs_of_postgresql():
    """The folder with the programs of the newest PostgreSQL, or None."""
    folders = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/local/pgsql/bin")
    folders = [f for f in folders if os.path.exists(f + "/initdb")]
    return max(folders, key=lambda f: [int(n) for n in f.split("/") if n.isdigit()] or [0], default=None)


class Lab:
    """See the module. `programs` is the folder with our built programs."""

    def __init__(self, folder, programs):
        self.folder, self.programs = os.path.abspath(folder), os.path.abspath(programs)
        os.makedirs(self.folder + "/logs", exist_ok=True)
        self.ports = self._remembered_ports()
        self.name = {n: f"127.0.0.1:{self.ports[n]}" for n in ("hs1", "hs2", "tester", "outsider")}
        self.client_url = {h: f"http://127.0.0.1:{self.ports[h + '_plain']}" for h in ("hs1", "hs2")}
        self.gateway_url = f"http://127.0.0.1:{self.ports['gateway']}"
        self.history_address = f"127.0.0.1:{self.ports['history']}"
        self.certificate, self.certificate_key = self.folder + "/tls.crt", self.folder + "/tls.key"
        self._connections = {}
        self.postgresql = None
        self.homeserver = {}
        self.history_flags, self.gateway_flags, self.follower_flags = [], [], []
        self.history = self.gateway = self.follower = None

    def _remembered_ports(self):
        path, ports = self.folder + "/ports.json", {}
        if os.path.exists(path):
            with open(path) as file:
                ports = json.load(file)
        for name in _PORTS:
            while name not in ports:
                port = free_port()
                if port not in ports.values():
                    ports[name] = port
        with open(path, "w") as file:
            json.dump(ports, file, indent=1)
        return ports

    def log(self, name):
        return f"{self.folder}/logs/{name}.log"

    # ------------------------------------------------------------ PostgreSQL

    def start_postgresql(self):
        """Starts a cluster of its own, on its own port and socket folder, as a user that is not root."""
        bin_folder = programs_of_postgresql()
        if bin_folder is None:
            raise Failed("PostgreSQL is not installed")
        data, options = self.folder + "/postgresql", {}
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.makedirs(data, exist_ok=True)
        if options:
            os.chown(data, options["user"], options["group"])
        if not os.path.exists(data + "/cluster/PG_VERSION"):
            run(bin_folder + "/initdb", "-D", data + "/cluster", "-U", "postgres", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync", cwd="/", **options)
        settings = {"listen_addresses": "127.0.0.1", "port": self.ports["database"],
                    "unix_socket_directories": data, "fsync": "off", "max_connections": 200}
        command = [bin_folder + "/postgres", "-D", data + "/cluster"]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        self.postgresql = Program("PostgreSQL", command, self.log("postgresql"), signal.SIGINT,
                                  cwd="/", **options)
        self.start_postgresql_again()
        for name in ("hs1", "hs2"):
            self.create_database(name)

    def start_postgresql_again(self):
        """Starts the cluster after it was stopped or crashed."""
        self._connections.clear()
        self.postgresql.start()
        wait_for(self._database_answers, 120, "PostgreSQL answers")

    def _database_answers(self):
        try:
            self.connect("postgres").close()
            return True
        except psycopg2.OperationalError:
            if not self.postgresql.is_running():
                raise Failed("PostgreSQL ended:\n" + self.postgresql.tail()) from None
            return False

    def create_database(self, name, template="template0"):
        with self.connect("postgres").cursor() as cursor:
            cursor.execute("select 1 from pg_database where datname = %s", (name,))
            if cursor.fetchone():
                return
            how = "encoding 'UTF8' locale 'C'" if template == "template0" else ""
            cursor.execute(f"create database {name} template {template} {how}")

    def create_role(self, database="hs1"):
        """Makes the follower's role, with what the follower itself prints."""
        sql = run(self.programs + "/backscroll-synapse", "check", "--role-sql")
        with self.connect("postgres").cursor() as cursor:
            cursor.execute("select 1 from pg_roles where rolname = 'backscroll_follower'")
            known = cursor.fetchone()
        if known:
            sql = "\n".join(l for l in sql.split("\n") if not l.strip().lower().startswith("create role"))
        path = self.folder + "/role.sql"
        with open(path, "w") as file:
            file.write(sql)
        psql = programs_of_postgresql() + "/psql"
        run(psql, "-h", "127.0.0.1", "-p", str(self.ports["database"]), "-U", "postgres", "-d", database,
            "-v", "ON_ERROR_STOP=1", "-v", "password=follower", "-f", path)

    def connect(self, database, user="postgres"):
        connection = psycopg2.connect(host="127.0.0.1", port=self.ports["database"], user=user, dbname=database)
        connection.autocommit = True
        return connection

    def rows(self, database, query, *arguments):
        """The rows of a query; one connection for each database is kept."""
        if database not in self._connections:
            self._connections[database] = self.connect(database)
        with self._connections[database].cursor() as cursor:
            cursor.execute(query, arguments or None)
            return cursor.fetchall()

    # ------------------------------------------------------------ Synapse

    def make_certificate(self):
        """One certificate for all names. It must not be a CA: rustls refuses such a certificate of a server."""
        if not os.path.exists(self.certificate):
            run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", self.certificate_key,
                "-out", self.certificate, "-days", "30", "-subj", "/CN=lab",
                "-addext", "basicConstraints=critical,CA:FALSE",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")

    def start_homeserver(self, which, module="synapse.app.homeserver", worker=None):
        """Starts hs1 or hs2, or a worker of one of them, and waits until it answers."""
        folder = f"{self.folder}/{which}"
        name = worker or which
        if name not in self.homeserver:
            command = [sys.executable, "-m", module, "-c", "homeserver.yaml"]
            command += ["-c", f"{worker}.yaml"] if worker else []
            self.homeserver[name] = Program(name, command, self.log(name), cwd=folder,
                                            env={**os.environ, "PYTHONPATH": HERE})
        self.homeserver[name].start()
        if not worker:
            self.wait_for_homeserver(which)

    def wait_for_homeserver(self, which):
        def answers():
            if not self.homeserver[which].is_running():
                raise Failed(f"{which} ended:\n" + self.homeserver[which].tail())
            return self.http_status(self.client_url[which] + "/_matrix/client/versions") == 200
        wait_for(answers, 180, f"{which} answers")

    def stop_homeserver(self, which):
        if which in self.homeserver:
            self.homeserver[which].stop()

    def configure_homeserver(self, which, **more):
        """Writes the settings of hs1 or hs2. `more` replaces settings."""
        from settings import homeserver_settings, logging_settings, make_signing_key
        folder = f"{self.folder}/{which}"
        os.makedirs(folder, exist_ok=True)
        make_signing_key(folder + "/signing.key")
        extra_path = folder + "/extra.json"
        extra = {}
        if os.path.exists(extra_path):
            with open(extra_path) as file:
                extra = json.load(file)
        extra.update(more)
        extra = {k: v for k, v in extra.items() if v is not None}
        with open(extra_path, "w") as file:
            json.dump(extra, file, indent=1)
        # JSON is YAML.
        with open(folder + "/homeserver.yaml", "w") as file:
            json.dump({**homeserver_settings(self, which), **extra}, file, indent=1)
        with open(folder + "/log.yaml", "w") as file:
            json.dump(logging_settings(folder + "/homeserver.log"), file, indent=1)

    def start_homeservers(self):
        self.make_certificate()
        for which in ("hs1", "hs2"):
            self.configure_homeserver(which)
            self.start_homeserver(which)

    @staticmethod
    def http_status(url):
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    # ------------------------------------------------------------ our programs

    def start_ours(self):
        """Starts history service, follower and gateway, and waits until the follower is ready."""
        self.start_history()
        self.start_follower()
        self.start_gateway()
        self.wait_for_follower()

    def start_history(self):
        command = [self.programs + "/backscroll", "serve", "--data-dir", self.folder + "/store",
                   "--listen", self.history_address, "--reserved-mib", "1",
                   "--metrics-listen", f"127.0.0.1:{self.ports['history_metrics']}",
                   "--shutdown-notice-seconds", "0", *self.history_flags]
        os.makedirs(self.folder + "/store", exist_ok=True)
        self.history = Program("history", command, self.log("history")).start()
        self.wait_for_history()

    def wait_for_history(self):
        def healthy():
            if not self.history.is_running():
                raise Failed("the history service ended:\n" + self.history.tail())
            command = [self.programs + "/backscroll", "health", "--server", "http://" + self.history_address]
            return subprocess.run(command, capture_output=True).returncode == 0
        wait_for(healthy, 120, "the history service is healthy")

    def follower_command(self):
        url = f"postgresql://backscroll_follower@127.0.0.1:{self.ports['database']}/hs1"
        password = self.folder + "/password"
        if not os.path.exists(password):
            with open(password, "w") as file:
                file.write("follower\n")
        return [self.programs + "/backscroll-synapse", "follow", "--database", url,
                "--database-password-file", password, "--history", "http://" + self.history_address,
                "--metrics-listen", f"127.0.0.1:{self.ports['follower_metrics']}", *self.follower_flags]

    def start_follower(self):
        self.follower = Program("follower", self.follower_command(), self.log("follower")).start()

    def wait_for_follower(self, seconds=240):
        def ready():
            if not self.follower.is_running():
                raise Failed("the follower ended:\n" + self.follower.tail())
            return self.http_status(f"http://127.0.0.1:{self.ports['follower_metrics']}/readyz") == 200
        wait_for(ready, seconds, "the follower is ready")

    def start_gateway(self):
        command = [self.programs + "/backscroll-gateway", "--server-name", self.name["hs1"],
                   "--history", "http://" + self.history_address,
                   "--listen", f"127.0.0.1:{self.ports['gateway']}",
                   "--metrics-listen", f"127.0.0.1:{self.ports['gateway_metrics']}",
                   "--federation-ca", self.certificate, "--allow-address-range", "127.0.0.0/8",
                   "--fallback", self.client_url["hs1"], "--shutdown-notice-seconds", "0",
                   *self.gateway_flags]
        self.gateway = Program("gateway", command, self.log("gateway")).start()
        wait_for(lambda: self.http_status(self.gateway_url + "/readyz") == 200, 60, "the gateway is ready")

    def metrics(self, program):
        """The metrics of history, gateway or follower: name with labels -> value."""
        return self.metrics_at(f"127.0.0.1:{self.ports[program + '_metrics']}")

    @staticmethod
    def metrics_at(address):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return {l.rpartition(" ")[0]: float(l.rpartition(" ")[2]) for l in lines if l and l[0] != "#"}
