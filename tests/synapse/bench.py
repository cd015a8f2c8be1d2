"""The bench: starts a lab, does the rounds that the command line names, ends everything. See README.md."""
import argparse
import json
import os
import sys
import time
import traceback


def generate_stubs(folder, tree):
    """Makes the Python modules of the gRPC contract, and puts them on the path."""
    import grpc_tools
    from grpc_tools import protoc
    stubs = folder + "/stubs"
    os.makedirs(stubs, exist_ok=True)
    proto = tree + "/proto"
    files = [os.path.join(d, f) for d, _, names in os.walk(proto) for f in names if f.endswith(".proto")]
    arguments = ["protoc", "-I", proto, "-I", grpc_tools.__path__[0] + "/_proto",
                 f"--python_out={stubs}", f"--grpc_python_out={stubs}", *files]
    if protoc.main(arguments):
        raise SystemExit("the stubs of the gRPC contract cannot be generated")
    sys.path.append(stubs)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lab", required=True, help="the folder of the lab")
    parser.add_argument("--programs", required=True, help="the folder with backscroll, backscroll-gateway, backscroll-synapse")
    parser.add_argument("--version", default="10", help="the room version of the steps (default: 10)")
    parser.add_argument("--steps", help="these steps (with commas; setup is always done); `all`, or `none`")
    parser.add_argument("--skip", default="", help="steps to leave out")
    parser.add_argument("--within", type=float, default=5, help="seconds until every answer must be right (default: 5)")
    parser.add_argument("--rounds", default="", help="rounds after the steps, with commas; see README.md")
    parser.add_argument("--all", action="store_true", help="all steps and all rounds")
    parser.add_argument("--kills", type=int, default=50, help="kills in the round `kills` (default: 50)")
    parser.add_argument("--events", type=int, default=300_000, help="events of the round `import` (default: 300000)")
    parser.add_argument("--without-ours", action="store_true", help="only record what is right and what Synapse answers")
    parser.add_argument("--flag", action="append", default=[], metavar="PROGRAM:FLAG",
                        help="one more argument of history, gateway or follower")
    parser.add_argument("--up", action="store_true", help="start the lab and wait until Enter is pressed")
    return parser.parse_args()


def all_rounds():
    """The rounds, in the order in which they are done. `kills` comes late: it begins with an empty store."""
    import kills
    import large
    import rounds
    return {"equal": rounds.equal, "states": rounds.states, "just-joined": rounds.just_joined,
            "fresh": rounds.fresh, "shadow": rounds.shadow, "end-to-end": rounds.end_to_end, "writers": kills.writers,
            "older-backup": kills.older_backup, "kills": kills.kills, "import": large.import_large,
            "proxies": rounds.proxies}


class Bench:
    def __init__(self, options):
        import lab
        self.options = options
        generate_stubs(options.lab, lab.TREE)
        self.lab = lab.Lab(options.lab, options.programs)
        for flag in options.flag:
            program, _, value = flag.partition(":")
            getattr(self.lab, program + "_flags").append(value)
        self.failures = []

    def start(self):
        begun = time.monotonic()
        self.lab.start_postgresql()
        self.lab.start_homeservers()
        print(f"the homeservers answer after {time.monotonic() - begun:.0f} s", flush=True)
        if not self.options.without_ours:
            self.lab.create_role()
            self.lab.start_ours()
            print(f"the follower is ready after {time.monotonic() - begun:.0f} s", flush=True)

    def perform_steps(self):
        import questions
        from steps import ALL, Steps
        wanted = ALL if self.options.steps == "all" else ["setup"] + self.options.steps.split(",")
        skipped = self.options.skip.split(",")
        steps = Steps(self.lab, self.options.version)
        peers = [steps.hs2_peer, steps.tester]
        judge = questions.Judge(self.lab, peers, self.options.within)
        totals = {"right": 0, "wrong": 0}
        for number, name in enumerate(n for n in ALL if n in wanted and n not in skipped):
            folder = f"{self.lab.folder}/steps/{self.options.version}/{number:02}-{name}"
            os.makedirs(folder, exist_ok=True)
            method = getattr(steps, name)
            print(f"{number:02} {name}: {method.__doc__}", flush=True)
            begun = time.monotonic()
            try:
                method()
            except Exception as error:
                self.failures.append(f"the step {name} could not be made to happen")
                print(f"   NOT MADE TO HAPPEN: {error!r}"[:400])
                traceback.print_exc(file=sys.stdout)
            time.sleep(0.3)
            done = time.monotonic()
            records = questions.prepare(self.lab, list(steps.rooms.values()), peers, name)
            if self.options.without_ours:
                questions.record(self.lab, records, peers)
            asked = time.monotonic()
            result = {} if self.options.without_ours else judge.judge(records)
            with open(folder + "/answers.ndjson", "w") as file:
                file.writelines(json.dumps(r) + "\n" for r in records)
            with open(folder + "/judged.json", "w") as file:
                json.dump({"rooms": steps.rooms, **result}, file, indent=1)
            self.report(name, records, result, done - begun, asked - done, totals)
        print(f"version {self.options.version}: {totals['right']} answers right, {totals['wrong']} wrong", flush=True)

    def report(self, name, records, result, made_in, recorded_in, totals):
        text = f"   {len(records)} questions; made to happen in {made_in:.1f} s, prepared in {recorded_in:.1f} s"
        if result:
            totals["right"] += result["right"]
            totals["wrong"] += result["wrong"]
            text += (f"; {result['right']} right, {result['wrong']} wrong, the last right after "
                     f"{result['seconds']} s; {result['answered_by']} {result['kinds'] or ''}")
            if result["wrong"]:
                self.failures.append(f"{result['wrong']} wrong answers after {name}")
        print(text, flush=True)

    def perform_rounds(self):
        known = all_rounds()
        wanted = list(known) if self.options.all else [r for r in self.options.rounds.split(",") if r]
        for name in wanted:
            print(f"round {name}: {known[name].__doc__}", flush=True)
            begun = time.monotonic()
            try:
                fault = known[name](self.lab, self.options)
            except Exception as error:
                traceback.print_exc(file=sys.stdout)
                fault = repr(error)[:300]
            print(f"   {'FAILED: ' + fault if fault else 'passed'} ({time.monotonic() - begun:.0f} s)", flush=True)
            if fault:
                self.failures.append(f"round {name}: {fault}")


def main():
    options = arguments()
    os.makedirs(options.lab, exist_ok=True)
    import processes
    processes.end_on_signals()
    bench = Bench(options)
    bench.start()
    if options.all and not options.steps:
        options.steps = "all"
    if options.steps and options.steps != "none":
        bench.perform_steps()
    bench.perform_rounds()
    if options.up:
        print(json.dumps(bench.lab.ports, indent=1))
        input("The lab is up. Press Enter to end it. ")
    processes.end_all()
    for failure in bench.failures:
        print("FAILED: " + failure)
    print("the bench passed" if not bench.failures else f"{len(bench.failures)} failures")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
