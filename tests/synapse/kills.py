"""Rounds in which programs are killed, and a database is set back."""
import random
import signal
import shutil
import time

from processes import Failed, Program, run
from rounds import Equality, Load, equal


def start_again_and_compare(lab, options, seconds=180):
    """Waits until the follower is ready and everything is equal. Returns what is wrong."""
    lab.wait_for_follower(seconds)
    return equal(lab, options, seconds=60)


def kills(lab, options):
    """follower, history service and PostgreSQL are killed at random moments, the first import included"""
    generator = random.Random(options.version + str(options.kills))
    # The first import is made again: with an empty store.
    lab.follower.stop()
    lab.history.stop()
    shutil.rmtree(lab.folder + "/store")
    lab.start_history()
    lab.start_follower()
    load = Load(lab, users=4, rate=40)
    counts = {"follower": 0, "history": 0, "PostgreSQL": 0}
    for _ in range(options.kills):
        time.sleep(generator.uniform(0.1, 2.5))
        victim = generator.choices(list(counts), [5, 4, 1])[0]
        counts[victim] += 1
        if victim == "follower":
            lab.follower.kill()
            lab.start_follower()
        elif victim == "history":
            lab.history.kill()
            lab.start_history()
        else:
            # `pg_ctl stop -m immediate`
            lab.postgresql.kill(signal.SIGQUIT)
            lab.start_postgresql_again()
        if not lab.follower.is_running():
            raise Failed("the follower ended:\n" + lab.follower.tail())
    achieved = load.stop()
    print(f"   {options.kills} kills {counts} at {achieved:.0f} events/s; errors of the load {dict(load.errors)}")
    return start_again_and_compare(lab, options)


def older_backup(lab, options):
    """PostgreSQL is set back to an older backup of its files"""
    _talk(lab)
    _change_files(lab, "cluster", "backup")
    _talk(lab)
    begun = time.monotonic()
    _change_files(lab, "backup", "cluster")
    readiness = f"http://127.0.0.1:{lab.ports['follower_metrics']}/readyz"
    was_not_ready, end = False, time.monotonic() + 30
    while time.monotonic() < end and not was_not_ready:
        was_not_ready = lab.http_status(readiness) == 503
        time.sleep(0.02)
    fault = start_again_and_compare(lab, options)
    print(f"   the follower {'was' if was_not_ready else 'was NEVER'} not ready meanwhile; equal again "
          f"{time.monotonic() - begun:.0f} s after PostgreSQL was stopped")
    _talk(lab)
    return fault or equal(lab, options) or (None if was_not_ready else "it was never not ready")


def _talk(lab, seconds=5):
    load = Load(lab, users=3, rate=30)
    time.sleep(seconds)
    load.stop()
    time.sleep(1)


def _change_files(lab, source, target):
    """Replaces the folder `target` by a copy of `source`, while everything of Synapse is stopped."""
    for which in ("hs1", "hs2"):
        lab.stop_homeserver(which)
    lab.postgresql.stop()
    folder = lab.folder + "/postgresql/"
    run("rm", "-rf", folder + target)
    run("cp", "-a", folder + source, folder + target)
    lab.start_postgresql_again()
    for which in ("hs1", "hs2"):
        lab.start_homeserver(which)


def writers(lab, options):
    """hs1 with two event persisters, one of which is killed"""
    import json
    import os
    ports = lab.ports
    if not shutil.which("redis-server"):
        print("   skipped: redis-server is not installed")
        return None
    redis = Program("redis", ["redis-server", "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--save", ""],
                    lab.log("redis"), cwd=lab.folder).start()
    lab.stop_homeserver("hs1")
    from settings import homeserver_settings
    replication = [{"type": "http", "port": ports["main"], "tls": False, "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["replication"]}]}]
    lab.configure_homeserver(
        "hs1", redis={"enabled": True, "host": "127.0.0.1", "port": ports["redis"]},
        instance_map={n: {"host": "127.0.0.1", "port": ports[n]} for n in ("main", "ep1", "ep2")},
        stream_writers={"events": ["ep1", "ep2"]},
        listeners=homeserver_settings(lab, "hs1")["listeners"] + replication)
    for worker in ("ep1", "ep2"):
        with open(f"{lab.folder}/hs1/{worker}.yaml", "w") as file:
            json.dump({"worker_app": "synapse.app.generic_worker", "worker_name": worker,
                       "worker_listeners": [{**replication[0], "port": ports[worker]}],
                       "worker_log_config": f"{lab.folder}/hs1/log.yaml",
                       "pid_file": f"{lab.folder}/hs1/{worker}.pid"}, file)
    try:
        lab.start_homeserver("hs1")
        for worker in ("ep1", "ep2"):
            lab.start_homeserver("hs1", "synapse.app.generic_worker", worker)
        time.sleep(6)
        first = lab.rows("hs1", "select max(stream_ordering) from events")[0][0]
        load = Load(lab, users=8)
        time.sleep(15)
        lab.homeserver["ep1"].kill()
        time.sleep(5)
        lab.start_homeserver("hs1", "synapse.app.generic_worker", "ep1")
        time.sleep(8)
        achieved = load.stop()
        written = lab.rows("hs1", "select instance_name, count(*) from events where stream_ordering > %s group by 1", first)
        print(f"   {achieved:.0f} events/s, written by {dict(written)}; errors of the load {dict(load.errors)}")
        fault = equal(lab, options)
        if len(written) < 2:
            fault = fault or "only one writer wrote"
    finally:
        for worker in ("ep1", "ep2"):
            lab.stop_homeserver(worker)
        lab.stop_homeserver("hs1")
        lab.configure_homeserver("hs1", redis=None, instance_map=None, stream_writers=None, listeners=None)
        redis.stop()
        lab.start_homeserver("hs1")
    load = Load(lab, users=3)
    time.sleep(3)
    load.stop()
    return fault or equal(lab, options)
