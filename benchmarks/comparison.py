"""The page docs/explanation/performance.md and its pictures, from the figures of all benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.pages import KEPT, NATIVE, OVER_HTTP, OVER_HTTPS
from benchmarks.pictures import Bar, Panel, figure, picture
from benchmarks.records import TARGETS, Record
from reference.markdown import filled, table, wrapped

TEMPLATE = Path(__file__).with_name("performance.md")
HEAD = ("what", "ours", "beside", "its figure", "ours / its", "target")
UNPATCHED = "the SDK without the patch, native https"
Row = Sequence[str]


def page(records: Mapping[str, Record]) -> str:
    """Return the page: the template with tables and figures in place of ``{{name}}``."""
    parts = {
        "waits": table(HEAD, waits(records)),
        "e2b": table(("what", "E2B's server", "ours / its", "ours is"), _beside_e2b(records["e2b-servers"])),
        "month": records["e2b-servers"]["month"],
        "runs": "one run" if records["e2b-servers"]["runs"] == 1 else f"{records['e2b-servers']['runs']} runs",
        "missed": _missed(records),
        "made": table(
            ("command", "date", "machine", "load", "Python", "e2b", "figures"),
            [_made(records[name]["made"]) for name in ("fleet", "sandbox", "patch")],
        ),
        "rounding": _rounding(records),
        "creates": str(records["fleet"]["rounds"]),
        "cycle clients": str(records["fleet"]["cycles"]["clients"]),
        "cycle seconds": str(records["fleet"]["cycles"]["seconds"]),
        "calls": str(records["sandbox"]["run_code"]["calls"]),
        "requests": str(records["patch"]["requests"]),
        "storms": str(records["patch"]["storms"]),
        "file calls": str((records["sandbox"].get("files") or {"calls": 0})["calls"]),
        "file uploads": str((records["sandbox"].get("files") or {"uploads": 0})["uploads"]),
        "transfers": str((records["sandbox"]["transfer"] or {"times": 0})["times"]),
    }
    return filled(TEMPLATE, parts)


def waits(records: Mapping[str, Record]) -> Iterable[Row]:
    """Yield the rows of the first table: the times that a program waits, and the resources that a machine needs."""
    fleet, sandbox, patch = (records[name] for name in ("fleet", "sandbox", "patch"))
    kernel = ("a plain Jupyter kernel, from its start", f"{figure(fleet['jupyter']['p50_ms'])} ms")
    for what, name, target in (
        ("create to first `run_code` result, from a pool", "warm", f"at most {TARGETS['first result, warm']:g}"),
        ("create to first `run_code` result, without a pool", "cold", "–"),
        ("the create alone, from a pool", "created", "–"),
    ):
        yield what, f"{figure(fleet[name]['p50_ms'])} ms", *kernel, f"{fleet[name]['of_jupyter']:.3f}", target
    for what, name, beside in (
        ('`run_code("1+1")`', "run_code", "`jupyter_client` to a plain kernel"),
        ('`commands.run("true")`', "commands.run", "`subprocess.run` of the same login shell"),
    ):
        plain, *_, whole = (f"{side['median']:.2f} ms" for side in sandbox[name]["sides"])
        yield what, whole, beside, plain, f"{sandbox[name]['ratio']:.2f}", f"at most {TARGETS[name]:g}"
    yield from _file_rows(sandbox.get("files"))
    yield from _transfer_rows(sandbox["transfer"])
    yield from _patch_rows(patch)
    creates, cycles, idle = fleet["at_once"], fleet["cycles"], fleet["idle"]
    for name in ("with pool", "without pool"):
        what = f"{creates['creates']} creates at once, all first results, {name.replace(' ', ' a ')}"
        ratio = f"{creates[name]['of_jupyter']:.1f}"
        yield what, f"{creates[name]['seconds']:.1f} s, {creates[name]['failed']} failed", *kernel, ratio, "no error"
    done = f"{cycles['a_second']:.1f} a second, {cycles['failed']} failed"
    yield "create, `run_code`, kill, over and over", done, "–", "–", "–", f"{TARGETS['cycles a second']:g} a second"
    memory = f"{TARGETS['memory of an idle sandbox']:g} MB or less"
    yield f"memory of one of {idle['sandboxes']} idle sandboxes", f"{idle['mb']:.1f} MB", "–", "–", "–", memory
    few = sandbox["idle"]
    what = f"memory of one of {few['sandboxes']} idle sandboxes"
    yield what, f"{few['sandbox']['pss']:.1f} MB", "–", "–", "–", memory


def _file_rows(files: Record | None) -> Iterable[Row]:
    for row in [] if files is None else files["rows"]:
        beside, target = "the SDK and a plain file server in Go", f"at most {TARGETS['files']:g}"
        yield (
            f"{row['what']}, SDK",
            f"{row['sdk']:.2f} ms",
            beside,
            f"{row['go']:.2f} ms",
            f"{row['of_go']:.2f}",
            target,
        )


def _transfer_rows(transfer: Record | None) -> Iterable[Row]:
    if transfer is None:
        yield "upload and download", "not measured", "nginx", "–", "–", f"at least {TARGETS['transfer']:g}"
        return
    nginx, curl, sdk = transfer["sides"]
    for way, name in (("up", "upload"), ("down", "download")):
        target = f"at least {TARGETS['transfer']:g}"
        plain, what = f"{figure(nginx[way])} MB/s", f"{name} of {transfer['megabytes']} MB"
        yield (
            f"{what}, curl",
            f"{figure(curl[way])} MB/s",
            "nginx, curl",
            plain,
            f"{transfer['ratio'][way]:.2f}",
            target,
        )
        yield f"{what}, SDK", f"{figure(sdk[way])} MB/s", "nginx, curl", plain, f"{sdk[way] / nginx[way]:.2f}", "–"


def _patch_rows(patch: Record) -> Iterable[Row]:
    times, ratio = patch["request_ms"], patch["ratio"]["request"]
    for way, target in ((OVER_HTTPS, f"at most {TARGETS['request through the patch']:g}"), (OVER_HTTP, "–")):
        what = f"`files.exists` through the patch, {way.removeprefix('private ')}"
        yield what, f"{times[way]:.2f} ms", UNPATCHED, f"{times[NATIVE]:.2f} ms", f"{ratio[way]:.3f}", target
    times, ratio = patch["storm_s"]["elapsed"], patch["ratio"]["storm"]
    for way in (OVER_HTTP, OVER_HTTPS, KEPT):
        kept = ", 300 connections kept" if way == KEPT else ""
        what = f"{patch['commands']} commands at once, patch, {'http' if way == OVER_HTTP else 'https'}{kept}"
        target = f"at most {TARGETS['commands at once']:g}"
        yield what, f"{times[way]:.2f} s", UNPATCHED, f"{times[NATIVE]:.2f} s", f"{ratio[way]:.2f}", target


def _missed(records: Mapping[str, Record]) -> str:
    """Return the sentence that names the targets that the figures miss."""
    fleet, sandbox, patch = (records[name] for name in ("fleet", "sandbox", "patch"))
    slow = [way for way, ratio in patch["ratio"]["storm"].items() if ratio > TARGETS["commands at once"]]
    files = [row["what"] for row in (sandbox.get("files") or {"rows": []})["rows"] if row["of_go"] > TARGETS["files"]]
    rates = (sandbox["transfer"] or {"ratio": {}})["ratio"]
    memory = max(fleet["idle"]["mb"], sandbox["idle"]["sandbox"]["pss"])
    e2b = [row["what"] for row in records["e2b-servers"]["rows"] if row["ratio"] > TARGETS["beside E2B's servers"]]
    checks = {
        "the first result from a pool": fleet["warm"]["of_jupyter"] > TARGETS["first result, warm"],
        "`run_code`": sandbox["run_code"]["ratio"] > TARGETS["run_code"],
        "`commands.run`": sandbox["commands.run"]["ratio"] > TARGETS["commands.run"],
        f"files beside a file server in Go ({'; '.join(files)})": bool(files),
        **{f"the {way}load": rate < TARGETS["transfer"] for way, rate in rates.items()},
        "a request through the patch over https": patch["ratio"]["request"][OVER_HTTPS]
        > TARGETS["request through the patch"],
        f"{patch['commands']} commands at once ({'; '.join(slow)})": bool(slow),
        "cycles a second": fleet["cycles"]["a_second"] < TARGETS["cycles a second"],
        "the memory of an idle sandbox": memory > TARGETS["memory of an idle sandbox"],
        f"beside E2B's servers, {len(e2b)} of {len(records['e2b-servers']['rows'])} calls": bool(e2b),
    }
    missed = [name for name, is_missed in checks.items() if is_missed]
    return wrapped(f"Targets that these figures miss: {', '.join(missed)}." if missed else "All targets are met.")


def _beside_e2b(record: Record) -> Iterable[Row]:
    for row in record["rows"]:
        yield row["what"], row["server"], f"{row['ratio']:g}", "slower" if row["ratio"] > 1 else "faster"


def _made(made: Record) -> Row:
    machine = f"{made['cores']} cores, {made['processor']}"
    load = "not recorded" if made["load"] is None else f"{made['load']:g}"
    figures = "read from the page" if made["from_page"] else "as measured"
    return f"`{made['command']}`", made["date"], machine, load, made["python"], made["e2b"], figures


def _rounding(records: Mapping[str, Record]) -> str:
    if not any(records[name]["made"]["from_page"] for name in ("fleet", "sandbox", "patch")):
        return "The ratios are computed from the figures before rounding."
    return wrapped(
        'Where the last column says "read from the page", a program read the figures back from the page that the run '
        "had written. They are rounded as the page has them. The ratios were computed before rounding, except those of "
        "the SDK's uploads and downloads."
    )


def pictures(records: Mapping[str, Record]) -> dict[str, str]:
    """Return each picture by its name."""
    fleet, sandbox, patch = (records[name] for name in ("fleet", "sandbox", "patch"))
    return {
        "performance-latency.svg": picture(
            "What a program waits for: a sandbox beside a plain Jupyter kernel and subprocess",
            [
                Panel(
                    "To the first result of 1+1, median",
                    "ms",
                    [
                        Bar("plain Jupyter kernel, started", fleet["jupyter"]["p50_ms"], ours=False),
                        Bar("sandbox, created without a pool", fleet["cold"]["p50_ms"]),
                        Bar("sandbox, created from a pool", fleet["warm"]["p50_ms"]),
                    ],
                ),
                _call_panel(sandbox["run_code"], 'run_code("1+1"), median', "plain jupyter_client", "run_code"),
                _call_panel(
                    sandbox["commands.run"], 'commands.run("true"), median', "plain subprocess.run", "commands.run"
                ),
                Panel(
                    "files.exists, with and without patch",
                    "ms",
                    [
                        Bar("native protocol, https (no patch)", patch["request_ms"][NATIVE], ours=False),
                        Bar("private protocol, https", patch["request_ms"][OVER_HTTPS]),
                        Bar("private protocol, http", patch["request_ms"][OVER_HTTP]),
                    ],
                ),
            ],
        ),
        **_throughput(sandbox["transfer"]),
        "performance-memory.svg": picture(
            "Memory (PSS) of idle sandboxes whose kernel ran a cell",
            [
                Panel(
                    f"One of {fleet['idle']['sandboxes']} idle sandboxes",
                    "MB",
                    [
                        Bar("the sandbox", fleet["idle"]["mb"]),
                        Bar("of that its kernel", fleet["idle"]["kernel_mb"]),
                        Bar("of that the rest", fleet["idle"]["rest_mb"]),
                        Bar("target, at most", TARGETS["memory of an idle sandbox"], ours=False),
                    ],
                ),
                Panel(
                    f"Once for all, beside {sandbox['idle']['sandboxes']} sandboxes",
                    "MB",
                    [
                        Bar("the manager", sandbox["idle"]["manager"]["pss"]),
                        *(Bar("its zygote", zygote["pss"]) for zygote in sandbox["idle"]["zygotes"]),
                    ],
                ),
            ],
        ),
        "performance-e2b.svg": picture(
            "Time beside E2B's own servers: this package, with its gateway in between",
            [
                Panel(
                    "Of the time of E2B's server (line: equal)",
                    "times",
                    [Bar(row["label"], row["ratio"]) for row in records["e2b-servers"]["rows"]],
                    mark=1,
                )
            ],
        ),
    }


def _call_panel(calls: Record, head: str, plain: str, whole: str) -> Panel:
    first, *_, last = (side["median"] for side in calls["sides"])
    return Panel(head, "ms", [Bar(plain, first, ours=False), Bar(whole, last)])


def _throughput(transfer: Record | None) -> dict[str, str]:
    if transfer is None:
        return {}
    nginx, curl, sdk = transfer["sides"]
    title = f"A file of {transfer['megabytes']} MB up and down: a sandbox beside nginx"
    return {
        "performance-throughput.svg": picture(
            title,
            [
                Panel(
                    f"{name} of {transfer['megabytes']} MB, median",
                    "MB/s",
                    [
                        Bar("nginx, curl", nginx[way], ours=False),
                        Bar("sandbox, curl", curl[way]),
                        Bar("sandbox, SDK", sdk[way]),
                    ],
                )
                for way, name in (("up", "Upload"), ("down", "Download"))
            ],
        )
    }
