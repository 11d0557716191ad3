# What a program in a kernel can find out about the interpreter that it runs in. Run as a cell; prints JSON.
def _facts():
    import builtins
    import gc
    import json
    import locale
    import os
    import platform
    import re
    import signal
    import site
    import sys
    import sysconfig
    import threading
    import time
    import warnings
    from pathlib import Path

    own, parent = Path("/proc/self"), Path("/proc", str(os.getppid()))

    def read(name):
        return (own / name).read_bytes().decode()

    def plain(value, depth=0):
        if isinstance(value, float) or (isinstance(value, int) and abs(value) > 2**32):
            return "a number"  # a time, or an address
        if isinstance(value, str) and len(value) > 50:
            return f"{len(value)} letters"  # may be made of a set, in any order
        if isinstance(value, str | bytes | int | None | os.PathLike):
            return re.sub(r"0x[0-9a-f]+", "0x", repr(value))
        if depth < 3 and type(value) in (list, tuple):
            return [plain(item, depth + 1) for item in value]
        if depth < 3 and type(value) in (set, frozenset):
            return sorted(str(plain(item, depth + 1)) for item in value)
        if depth < 3 and type(value) is dict:
            return {str(plain(key)): plain(item, depth + 1) for key, item in value.items()}
        return f"a {type(value).__name__}"

    # Caches, the lock of the main thread, and what hidden modules want done at the end.
    ignored = {
        *("re._cache", "re._cache2", "encodings._cache", "linecache.cache", "platform._uname_cache"),
        *("sysconfig._CONFIG_VARS", "sysconfig._CONFIG_VARS_INITIALIZED"),
        *("threading._shutdown_locks", "threading._threading_atexits"),
    }
    loaded = sorted(sys.modules)
    values = {
        f"{name}.{key}": plain(value)
        for name in loaded
        if name not in ("__main__", "sys", "os") and not name.startswith("kruise_agents")
        for key, value in list(getattr(sys.modules[name], "__dict__", {}).items())
        if not key.startswith("__") and f"{name}.{key}" not in ignored
    }
    status = dict(line.split(":\t", 1) for line in read("status").splitlines() if ":\t" in line)
    names = (
        "Umask Uid Gid Groups SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp "
        "Seccomp_filters Cpus_allowed"
    )
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    facts = {
        "modules": loaded,
        "values": values,
        "path": sys.path,
        "prefixes": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix],
        "executables": [sys.executable, sys._base_executable],  # type: ignore[attr-defined]  # private
        "arguments": [sys.argv, sys.orig_argv],
        "flags": repr(sys.flags),
        "options": [sys.warnoptions, sys._xoptions],
        "warnings": [repr(one) for one in warnings.filters],
        "finders": [[repr(type(one)), repr(one)[:30]] for one in sys.meta_path],
        "hooks": len(sys.path_hooks),
        "environment": dict(os.environ),
        "environ": read("environ"),
        "command line": read("cmdline"),
        "name": read("comm"),
        "links": {name: str((own / name).readlink()) for name in ("exe", "cwd", "root")},
        "namespaces": {
            one.name: one.readlink() == (parent / "ns" / one.name).readlink() for one in (own / "ns").iterdir()
        },
        "status": {name: status[name] for name in names.split()},
        "handlers": {str(number): repr(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
        "limits": read("limits"),
        "groups": read("cgroup"),
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "niceness": [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), read("oom_score_adj")],
        "streams": [(one.encoding, one.errors, one.line_buffering) for one in streams if one],
        "open": sorted(re.sub(r"\d+", "N", str(one.readlink())) for one in (own / "fd").iterdir() if one.is_symlink()),
        "threads": sorted(one.name for one in threading.enumerate()),
        "main thread": threading.main_thread().native_id == os.getpid(),
        "locale": [locale.setlocale(kind) for kind in (locale.LC_CTYPE, locale.LC_TIME, locale.LC_NUMERIC)],
        "time": time.tzname,
        "machine": list(platform.uname()),
        "paths": sysconfig.get_paths(),
        "site": [site.PREFIXES, site.getsitepackages(), site.ENABLE_USER_SITE, site.USER_BASE, site.USER_SITE],
        "builtins": sorted(vars(builtins)),
        "collector": [gc.isenabled(), gc.get_threshold()],
        "recursion": sys.getrecursionlimit(),
    }
    print(json.dumps(facts))


_facts()
