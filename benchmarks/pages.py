"""The pages docs/benchmarks/{sandbox,fleet,patch,proxy}.md, each from the figures of its benchmark."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.records import FOLDER, TARGETS, Record

NATIVE, OVER_HTTPS, OVER_HTTP, KEPT = WAYS = (
    "native https",
    "private https",
    "private http",
    "private https, 300 kept",
)
PARTS = ("client", "manager", "sandboxes")


def pages(records: Mapping[str, Record]) -> dict[str, str]:
    """Return the text of each page by its name. The present text below the table of fleet.md is kept."""
    path = FOLDER / "fleet.md"
    notes = path.read_text(encoding="utf-8").partition("\n## ")[2] if path.exists() else ""
    texts = {name: "\n".join(page(records[name])) + "\n" for name, page in _PAGES.items()}
    texts["fleet"] += f"\n## {notes}" if notes else ""
    return {f"{name}.md": text for name, text in texts.items()}


# One sandbox


def sandbox(record: Record) -> Iterable[str]:
    made = record["made"]
    yield "# What a sandbox costs"
    yield ""
    yield (
        f"`{made['command']}`, {made['date']}, {made['cores']} cores ({made['processor']}), Python {made['python']}, "
        f"e2b {made['e2b']}, load at the start {made['load']:.1f}. All figures are of one run, the sides taking turns."
    )
    yield ""
    yield from _idle(record["idle"])
    yield from _calls(record["run_code"], '`run_code("1+1")`')
    yield _verdict(record["run_code"], "`run_code`", "jupyter_client to a plain kernel", TARGETS["run_code"])
    yield ""
    yield from _calls(record["commands.run"], '`commands.run("true")`')
    yield _verdict(
        record["commands.run"],
        "`commands.run`",
        "`subprocess.run` of the same `/bin/bash -l -c true`",
        TARGETS["commands.run"],
    )
    yield ""
    yield from _files(record.get("files"))
    yield "'Into the sandbox' is a plain HTTP request on the Unix socket that the gateway uses. It has the work of envd"
    yield "or the code interpreter, and of the process or kernel. 'Through the gateway' adds the manager. The last line"
    yield "adds the SDK."
    yield ""
    if files := record.get("files"):
        yield "## Where the time of files goes, and the floor"
        yield ""
        yield from _floor(files["rows"])
        yield ""
    yield from _transfers(record["transfer"])


def _idle(idle: Record) -> Iterable[str]:
    def row(name: str, process: Record, bold: str = "") -> str:
        cells = [name, f"{process['pss']:.1f}", f"{process['private']:.1f}", f"{process['cpu_ms']:.0f}"]
        return "| " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |"

    whole = idle["sandbox"]
    yield f"## One of {idle['sandboxes']} idle sandboxes with a Python kernel, over {idle['seconds']} s"
    yield ""
    yield "| process | PSS, MB | of its own (private), MB | processor, ms |"
    yield "|---|---|---|---|"
    yield from (row(process["name"], process) for process in idle["processes"])
    yield row("the sandbox", whole, "**")
    yield row("the manager, once for all", idle["manager"])
    yield from (row("its zygote, once for all", zygote) for zygote in idle["zygotes"])
    yield ""
    yield (
        f"The sandbox has **{whole['pss']:.1f} MB** (PSS; target: "
        f"{TARGETS['memory of an idle sandbox']:g} MB or less). Pages that several processes share are divided among "
        "them: the more sandboxes there are, the less memory each takes. [What many sandboxes cost](fleet.md) has the "
        "memory of one of a hundred."
    )
    yield ""


def _calls(calls: Record, title: str) -> Iterable[str]:
    yield f"## {title}, {calls['calls']} calls each"
    yield ""
    yield "| measured | 10 %, ms | median, ms | 90 %, ms | 99 %, ms | share of the whole |"
    yield "|---|---|---|---|---|---|"
    for side in calls["sides"]:
        figures = " | ".join(f"{side[name]:.2f}" for name in ("p10", "median", "p90", "p99"))
        share = "" if side["share"] is None else f"{side['share']:.0%}"
        yield f"| {side['name']} | {figures} | {share} |"
    yield ""


def _verdict(calls: Record, name: str, against: str, target: float) -> str:
    return f"{name} takes **{calls['ratio']:.2f}** times as long as {against} (target: at most {target:g})."


def _files(files: Record | None) -> Iterable[str]:
    yield "## Files, beside a plain file server in Go"
    yield ""
    if files is None:
        yield "Not measured in this run. It takes Go and nginx (apt-get install golang-go nginx-light)."
        yield ""
        return
    yield f"Medians of {files['calls']} calls, and of {files['uploads']} uploads, in milliseconds."
    yield ""
    yield (
        "| measured | SDK, Go server | SDK, Go server behind nginx | SDK, bare programs | into the sandbox "
        "| through the gateway | SDK, sandbox | of Go | of Go behind nginx |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in files["rows"]:
        times = [
            f"{row[name]:.2f}" if name in row else "" for name in ("go", "nginx", "bare", "into", "through", "sdk")
        ]
        yield "| " + " | ".join([row["what"], *times, f"{row['of_go']:.2f}", f"{row['of_nginx']:.2f}"]) + " |"
    yield ""
    yield "The Go server (`benchmarks/file_server.go`) writes, reads and lists as E2B's envd does, without access"
    yield "tokens, users, limits, metadata and gateway. nginx stands for the gateway of a cluster. Target: at most"
    yield f"{TARGETS['files']:g} of Go. Each write replaces a file of 1 KB. Where the disk is mounted with `discard`,"
    yield "the Go server waits until the disk has discarded the old block. envd writes into the old block."
    yield ""


def _floor(rows: Iterable[Record]) -> list[str]:
    floors = [f"{row['floor']:.2f} of Go's for {row['what']}" for row in rows if "floor" in row]
    measured = f" In this run their time is {', '.join(floors)}." if floors else ""
    paragraphs = f"""
        A call passes two Python programs, the manager and envd. The floor is the time with two bare programs
        (`benchmarks/bare_server.py`): one passes bytes on, the other has an answer ready. They read nothing of a
        request but where it ends, check nothing and touch no file.{measured}

        A read cannot reach 1 of Go with programs in Python, because the two bare programs alone take about as long as
        the Go server. What a request needs comes on top: strict reading of request and answer, the choice of the
        sandbox, tokens, users, limits, request IDs, and the file. Measured alone, with warm caches, the manager's
        Python takes 0.12 ms for a request, and envd's 0.07 ms for a read and 0.16 ms for a write of 1 KB. Between two
        calls of a client both programs sleep, and the same steps then take up to twice as long. The floor of a write
        also lacks the file. With the system calls, on a machine busy with other work, the manager takes 0.47 ms of
        processor time for a read and envd 0.30 ms; for a write they take 0.59 and 0.50 ms.

        A list has the lowest floor, because the Go server looks up two names for each entry. For a list of 100 entries
        envd takes 0.6 ms besides what each request takes: 0.15 ms for two system calls an entry, one for its facts and
        one for its metadata, 0.23 ms for the rest of the entries, 0.15 ms to write JSON, 0.06 ms to list and sort the
        names. No part is large, so a faster list needs another language or fewer fields.

        An upload is written twice. Its body waits in a temporary file until it is complete, so that an upload that
        breaks off leaves the old file as it was. The Go server writes into the file at once. On this machine, busy with
        other work, 64 MB took 32 ms to write at best, and 59 ms to copy over a file of that size. The first write runs
        while the body comes in. The copy begins at the end, and with the floor it takes longer than the Go server.

        Of the processor time of an upload, 120 to 140 ms are envd's and 60 ms the manager's. Two other ways were tried
        for it. The kernel's `copy_file_range` copies 64 MB in 18 ms of processor time; reading and writing, or a mapped
        file, take 21 to 25 ms. A search of our own for the boundary of the form, from the end of each chunk, takes 3 ms
        instead of 8 for random bytes and 44 ms instead of 17 for repeated ones. A rename in place of the copy would
        give the file another inode: hard links and programs that have it open would keep the old content.
    """
    return textwrap.dedent(paragraphs).strip().splitlines()


def _transfers(transfer: Record | None) -> Iterable[str]:
    if transfer is None:
        yield "## 256 MB up and down"
        yield ""
        yield "Not measured: nginx or curl is not installed (apt-get install nginx-light curl)."
        return
    yield f"## {transfer['megabytes']} MB up and down, median of {transfer['times']}"
    yield ""
    yield "| server | up, MB/s | down, MB/s |"
    yield "|---|---|---|"
    yield from (f"| {side['name']} | {side['up']:.0f} | {side['down']:.0f} |" for side in transfer["sides"])
    yield ""
    ratio = transfer["ratio"]
    grown = ", ".join(f"{name} {low:.0f} to {high:.0f} MB" for name, (low, high) in transfer["memory"].items())
    yield (
        f"A sandbox takes a file **{ratio['up']:.2f}** times as fast as nginx and gives it **{ratio['down']:.2f}** "
        f"times as fast, with curl on both sides (target: at least {TARGETS['transfer']:g}). "
        f"Memory at its highest meanwhile: {grown}."
    )


# Many sandboxes


def fleet(record: Record) -> Iterable[str]:
    made = record["made"]
    yield "# What many sandboxes cost"
    yield ""
    yield textwrap.fill(
        f"`{made['command']}`, {made['date']}, {made['cores']} cores ({made['processor']}), load average "
        f"{made['load']:.0f}, Python {made['python']}, e2b {made['e2b']}. One run; single creates and kernels take "
        f"turns, {record['rounds']} of each, with a pool of {record['pool']}.",
        120,
    )
    yield ""
    yield "| what | figure | of a cold Jupyter kernel | target |"
    yield "|---|---|---|---|"
    for row in _fleet_rows(record):
        yield "| " + " | ".join(row) + " |"


def _fleet_rows(record: Record) -> Iterable[tuple[str, str, str, str]]:
    for name, what, target in (
        ("jupyter", "start a plain kernel with jupyter_client, first result", ""),
        ("cold", "create to first `run_code` result, cold", ""),
        ("warm", "create to first `run_code` result, warm", f"at most {TARGETS['first result, warm']:g}"),
        ("created", "of which the create, warm", ""),
    ):
        times = record[name]
        figure = f"p50 {times['p50_ms']:.0f} ms, p99 {times['p99_ms']:.0f} ms"
        yield what, figure, f"{times['of_jupyter']:.3f}", target
    for name in ("without pool", "with pool"):
        at_once = record["at_once"][name]
        figure = f"{at_once['seconds']:.1f} s, {at_once['failed']} failed"
        what = f"{record['at_once']['creates']} creates at once, manager {name}"
        yield what, figure, f"{at_once['of_jupyter']:.1f}", "no error"
    cycles, idle = record["cycles"], record["idle"]
    yield (
        f"{cycles['seconds']} s of create, `run_code`, kill by {cycles['clients']} clients",
        f"{cycles['a_second']:.1f} a second, {cycles['failed']} failed; p50 {cycles['p50_s']:.2f} s, "
        f"p99 {cycles['p99_s']:.2f} s; the manager itself takes {cycles['manager_share']:.0%} of a core",
        "",
        f"{TARGETS['cycles a second']:g} a second, no error",
    )
    yield (
        f"memory of one of {idle['sandboxes']} idle sandboxes with a kernel that ran a cell (PSS)",
        f"{idle['mb']:.1f} MB: kernel {idle['kernel_mb']:.1f}, the rest {idle['rest_mb']:.1f}",
        "",
        f"{TARGETS['memory of an idle sandbox']:g} MB",
    )
    grown = idle["manager_kb"]
    growth = f"{grown:.0f} kB" if grown > 0 else f"none: the manager became smaller, by {-grown:.0f} kB a sandbox"
    yield "what each of them adds to the manager's memory", growth, "", ""
    yield "processor time of an idle sandbox", f"{idle['cpu_ms_a_second']:.2f} ms a second", "", ""


# The patch


def patch(record: Record) -> Iterable[str]:
    made, of_patch, ratio = record["made"], record["patch"], record["ratio"]
    yield "# What the patch costs and gains"
    yield ""
    yield (
        f"`{made['command']}`, {made['date']}, {made['cores']} cores ({made['processor']}), Python {made['python']}, "
        f"e2b {made['e2b']}. All figures are of one run, the ways taking turns."
    )
    yield ""
    yield "| what | figure | target |"
    yield "|---|---|---|"
    target = f"below {TARGETS['patch, ms']:g} ms"
    yield f"| `patch_e2b()` after the SDK is imported | {of_patch['milliseconds']:.2f} ms | {target} |"
    yield f"| `import kruise_agents.patch_e2b` before it | {of_patch['import_milliseconds']:.2f} ms | |"
    foreign = ", ".join(of_patch["modules"]) or "none"
    yield f"| modules that the patch imports beyond its own and the SDK's | {foreign} | |"
    yield ""
    yield "| measured | " + " | ".join(WAYS) + " |"
    yield "|---" * (len(WAYS) + 1) + "|"
    storm = f"{record['commands']} commands at once over {record['sandboxes']} sandboxes, median of {record['storms']}"
    yield _of_ways("building a configuration and a sandbox URL, µs", record["addresses_us"], "{:.1f}")
    yield _of_ways(f"`files.exists`, median of {record['requests']}, ms", record["request_ms"], "{:.2f}")
    yield _of_ways(f"{storm}, s", record["storm_s"]["elapsed"], "{:.2f}")
    for part in PARTS:
        yield _of_ways(f"– CPU of the {part} for them, s", record["storm_s"][part], "{:.2f}")
    yield ""
    yield (
        f"A request over private https takes {ratio['request'][OVER_HTTPS]:.3f} times as long as over native https "
        f"(target: at most {TARGETS['request through the patch']:g}), and over private http "
        f"{ratio['request'][OVER_HTTP]:.3f} times."
    )
    remedy = " ".join(f"`{name}={value}`" for name, value in record["remedy"].items())
    yield (
        f"{record['commands']} commands at once take {ratio['storm'][OVER_HTTP]:.2f} times as long over private http "
        f"as over native https (target: at most {TARGETS['commands at once']:g}). Over private https they take "
        f"{ratio['storm'][OVER_HTTPS]:.2f} times as long, and {ratio['storm'][KEPT]:.2f} times with {remedy}."
    )
    yield ""
    yield "## Where the time of many commands goes"
    yield ""
    yield from _where_the_time_goes(record)


def _where_the_time_goes(record: Record) -> list[str]:
    native, private = (sum(record["storm_s"][part][way] for part in PARTS) for way in (NATIVE, OVER_HTTP))
    alone = record["storm_s"]["sandboxes"][OVER_HTTP]
    paragraphs = f"""
        {record["commands"]} commands take {native:.2f} s of processor time over native https and {private:.2f} s over private
        http. The sandboxes spend {alone:.2f} s of it, because envd starts a login shell for each command. If client
        and manager took no time at all, this machine would be {native / alone:.1f} times as fast as over native https.
        No protocol can gain more here.

        The SDK's pool keeps 20 idle connections to an address. In the native protocol each sandbox is an address. In
        the private protocol all sandboxes share one address and its 20 connections, so a second burst of commands
        opens most of its connections again, with a handshake each. The last column keeps 300 connections. From e2b
        2.56.0 on the pool also opens 200 connections to an address at most, so the last hundred commands wait.
        [The patch](../reference/patch.md#connections-and-proxies) has both settings. Each command holds a connection
        in either protocol, because the manager speaks HTTP/1.1.

        The benchmark does not measure distance. On the loopback a handshake takes no round trip, and a name takes no
        lookup.
    """  # noqa: E501 - a line of the page
    return textwrap.dedent(paragraphs).strip().splitlines()


def _of_ways(name: str, values: Mapping[str, Any], form: str) -> str:
    return f"| {name} | " + " | ".join(form.format(values[way]) for way in WAYS) + " |"


# The proxy


def proxy(record: Record) -> Iterable[str]:
    made, rates, streams = record["made"], record["rates"], record["streams"]
    yield "# What `kruise-agents proxy` costs"
    yield ""
    yield from textwrap.wrap(
        f"`{made['command']}`, {made['date']}, {made['cores']} cores ({made['processor']}), Python {made['python']}, "
        f"load at the start {made['load']:.1f}. The proxy and nginx, as a proxy that buffers nothing, stand before "
        f"the same nginx, which serves files in memory. curl is the client. All run on one machine and take turns.",
        120,
    )
    yield ""
    what = f"median of {record['times']}, {record['megabytes']} MB"
    yield f"| {what} | no proxy | nginx | `kruise-agents proxy` | of nginx |"
    yield "|---|---|---|---|---|"
    for way, name in (("up", "upload"), ("down", "download")):
        cells = [f"{rates[way][side]:.0f} MB/s" for side in ("none", "nginx", "proxy")]
        yield f"| {name} | {' | '.join(cells)} | {record['ratio'][way]:.2f} |"
    seconds = streams["seconds"]
    cells = [f"{seconds[side]:.2f} s" for side in ("none", "nginx", "proxy")]
    ratio = seconds["nginx"] / seconds["proxy"]
    yield f"| {streams['count']} downloads of {streams['megabytes']} MB at once | {' | '.join(cells)} | {ratio:.2f} |"
    yield ""
    yield f"The target is at least {TARGETS['transfer']:g} of nginx."
    yield ""
    yield "| resident memory of the proxy | before | highest | after |"
    yield "|---|---|---|---|"
    for name, memory in (
        (f"uploads and downloads, {record['megabytes'] * record['times'] * 2 / 1024:.1f} GB", record["memory"]),
        (f"{streams['count']} downloads at once, three times", streams["memory"]),
    ):
        yield f"| {name} | " + " | ".join(f"{memory[when]:.0f} MB" for when in ("before", "peak", "after")) + " |"


_PAGES = {"fleet": fleet, "patch": patch, "proxy": proxy, "sandbox": sandbox}
