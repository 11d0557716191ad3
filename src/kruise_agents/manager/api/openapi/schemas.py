"""What goes through the API, as JSON Schema."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_SECRET_VALUE: Schema = {"type": "string", "minLength": 1}
_SECRET_METADATA: Schema = {**_TEXTS, "maxProperties": 32}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": sorted(required), "properties": {**required, **(optional or {})}}


def array_of(name: str) -> Schema:
    """A list of one of :data:`SCHEMAS`."""
    return {"type": "array", "items": reference(name)}


def reference(name: str) -> Schema:
    """One of :data:`SCHEMAS`, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


_LISTED: dict[str, Schema] = {
    "templateID": _TEXT,
    "sandboxID": _TEXT,
    "clientID": _TEXT,
    "alias": _TEXT,
    "startedAt": _TIME,
    "endAt": _TIME,
    "cpuCount": _NUMBER,
    "memoryMB": _NUMBER,
    "diskSizeMB": _NUMBER,
    "state": {"enum": ["running", "paused"]},
    "envdVersion": _TEXT,
    "metadata": _TEXTS,
    "volumeMounts": {"type": "array", "items": _object({"name": _TEXT, "path": _TEXT})},
}
_TEMPLATE: dict[str, Schema] = {
    "templateID": _TEXT,
    "public": _FLAG,
    "aliases": {"type": "array", "items": _TEXT},
    "names": {"type": "array", "items": _TEXT},
    "createdAt": _TIME,
    "updatedAt": _TIME,
    "lastSpawnedAt": _or_null(_TIME),
    "spawnCount": _NUMBER,
}
_SIZES: dict[str, Schema] = {
    "buildID": {"type": "string", "format": "uuid"},
    "cpuCount": _NUMBER,
    "memoryMB": _NUMBER,
    "diskSizeMB": _NUMBER,
    "envdVersion": _TEXT,
}
_QUOTA: Schema = _object(
    {},
    {
        "limits": {
            "type": "array",
            "items": _object(
                {
                    "dimension": {"enum": ["sandbox.count", "limits.cpu", "limits.memory"]},
                    "scope": {"enum": ["all", "running"]},
                    "limit": {"type": "integer", "minimum": 0},
                }
            ),
        }
    },
)
_API_KEY: dict[str, Schema] = {
    "id": _TEXT,
    "name": _TEXT,
    "mask": _object({}),
    "createdAt": _TIME,
    "createdBy": _or_null(_object({"email": _TEXT, "id": _TEXT})),
    "lastUsed": _or_null(_TIME),
}

_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_RANGES = _or_null(
    {
        "type": "array",
        "maxItems": 100,
        "items": {"type": "string", "pattern": rf"^{_BYTE}(\.{_BYTE}){{3}}(/(3[0-2]|[12]?[0-9]))?$"},
        "description": "addresses and CIDRs; what is allowed beats what is denied",
    }
)

SCHEMAS: dict[str, Schema] = {
    "Error": _object({"code": _NUMBER, "message": _TEXT}, {"error_code": _TEXT, "request_id": _TEXT}),
    "Health": _object(
        {
            "status": {"const": "OK"},
            "version": _TEXT,
            "runtime": _TEXT,
            "users": {"enum": ["one", "several"]},
            "limits": {"enum": ["cgroup v2", "rlimits"]},
            "internet": {"enum": ["slirp4netns", "pasta", "none", "the machine's"]},
            "pause": _TEXT,
        }
    ),
    "NewSandbox": _object(
        {"templateID": {**_TEXT, "examples": ["base"]}},
        {
            "timeout": _or_null({"type": "integer", "minimum": 1, "description": "seconds until its end"}),
            "metadata": _or_null(_TEXTS),
            "envVars": _or_null(_TEXTS),
            "secure": _or_null({**_FLAG, "description": "whether envd asks for an access token; true unless false"}),
            "allow_internet_access": _or_null(_FLAG),
            "volumeMounts": _or_null({"type": "array", "items": _object({"name": _TEXT, "path": _TEXT})}),
            "network": _or_null(
                _object({}, {"allowOut": _RANGES, "denyOut": _RANGES, "allowPublicTraffic": _or_null(_FLAG)})
            ),
            "autoPause": _or_null({**_FLAG, "description": "pause it at its end time instead of ending it"}),
            "autoPauseMemory": _or_null({**_FLAG, "description": "whether that pause keeps processes"}),
            "autoResume": _or_null(_object({}, {"enabled": _or_null(_FLAG)})),
        },
    ),
    "Network": _object({}, {"allowOut": _RANGES, "denyOut": _RANGES, "allow_internet_access": _or_null(_FLAG)}),
    "Connect": _object(
        {},
        {
            "timeout": _or_null({"type": "integer", "minimum": 1, "description": "seconds from now"}),
            "memory": _or_null({**_FLAG, "description": "false: boot a paused one anew"}),
        },
    ),
    "Pause": _object(
        {},
        {
            "memory": _or_null({**_FLAG, "description": "false: keep files only"}),
            "requireHealthyGuest": _or_null(_FLAG),
        },
    ),
    "Refresh": _object({}, {"duration": _or_null({"type": "integer", "description": "seconds from now, 15 at least"})}),
    "NewSnapshot": _object(
        {}, {"name": _or_null({**_TEXT, "description": "name or name:tag"}), "memory": _or_null(_FLAG)}
    ),
    "Snapshot": _object({"snapshotID": _TEXT, "names": {"type": "array", "items": _TEXT}}),
    "NewForks": _object(
        {},
        {
            "count": _or_null({"type": "integer", "minimum": 1, "maximum": 20}),
            "timeout": _or_null({"type": "integer", "minimum": 1, "description": "seconds until their end"}),
        },
    ),
    "Fork": {
        "oneOf": [_object({"sandbox": reference("Sandbox")}), _object({"error": reference("Error")})],
    },
    "Timeout": _object({"timeout": {"type": "integer", "description": "seconds from now; 0 or less ends it"}}),
    "Sandbox": _object(
        {
            "templateID": _TEXT,
            "sandboxID": _TEXT,
            "clientID": _TEXT,
            "alias": _TEXT,
            "envdVersion": _TEXT,
            "envdAccessToken": _or_null(_TEXT),
            "trafficAccessToken": _or_null(_TEXT),
            "domain": _or_null(_TEXT),
        },
        {"trafficAccessTokenExpiration": _TIME},
    ),
    "ListedSandbox": _object(_LISTED),
    "SandboxDetail": _object(
        {
            **_LISTED,
            "envdAccessToken": _or_null(_TEXT),
            "domain": _or_null(_TEXT),
            "lifecycle": _object({"autoResume": _FLAG, "onTimeout": {"enum": ["kill", "pause"]}}),
            "allowInternetAccess": _FLAG,
        },
        {
            "pauseMode": {"enum": ["full", "filesystem"]},
            "network": _object({"allowOut": _RANGES, "denyOut": _RANGES, "allowPublicTraffic": _FLAG}),
        },
    ),
    "TrafficToken": _object({"trafficAccessToken": _TEXT, "trafficAccessTokenExpiration": _TIME}),
    "Metric": _object(
        {
            "timestamp": _TIME,
            "timestampUnix": _NUMBER,
            "cpuCount": _NUMBER,
            "cpuUsedPct": {"type": "number"},
            **dict.fromkeys(("memUsed", "memTotal", "memCache", "diskUsed", "diskTotal"), _NUMBER),
        }
    ),
    "LastMetrics": _object({"sandboxes": {"type": "object", "additionalProperties": reference("Metric")}}),
    "LogEntry": _object(
        {
            "timestamp": _TIME,
            "message": _TEXT,
            "level": {"enum": ["debug", "info", "warn", "error"]},
            "fields": _TEXTS,
        }
    ),
    "Logs": _object(
        {
            "logs": {"type": "array", "items": _object({"timestamp": _TIME, "line": _TEXT})},
            "logEntries": array_of("LogEntry"),
        }
    ),
    "LogEntries": _object({"logs": array_of("LogEntry")}),
    "NewSecret": _object(
        {"name": {"type": "string", "pattern": "^(?!sec_)[a-z0-9_-]{1,128}$"}, "value": _SECRET_VALUE},
        {"metadata": _SECRET_METADATA},
    ),
    "SecretUpdate": _object({"value": _SECRET_VALUE}, {"metadata": _SECRET_METADATA}),
    "Secret": _object(
        {
            "secretID": _TEXT,
            "name": _TEXT,
            "currentVersion": {"type": "integer", "minimum": 1},
            "metadata": _TEXTS,
            "createdAt": _TIME,
            "updatedAt": _TIME,
        }
    ),
    "NewVolume": _object({"name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$"}}),
    "ListedVolume": _object({"volumeID": _TEXT, "name": _TEXT}),
    "Volume": _object({"volumeID": _TEXT, "name": _TEXT, "token": _TEXT}),
    "VolumeAttributes": _object({}, dict.fromkeys(("uid", "gid", "mode"), _or_null({"type": "integer"}))),
    "VolumeEntry": _object(
        {
            "name": _TEXT,
            "type": {"enum": ["directory", "file", "symlink", "unknown"]},
            "path": _TEXT,
            **dict.fromkeys(("size", "mode", "uid", "gid"), _NUMBER),
            **dict.fromkeys(("atime", "mtime", "ctime"), _TIME),
        },
        {"target": _TEXT},
    ),
    "Team": _object({"teamID": _TEXT, "name": _TEXT, "apiKey": {"const": ""}, "isDefault": _FLAG}),
    "CompatibleKey": _object({"key": _TEXT}),
    "NewApiKey": _object(
        {"name": {"type": "string", "minLength": 1, "maxLength": 256}},
        {
            "teamName": _or_null({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}),
            "quota": _or_null(_QUOTA),
        },
    ),
    "ApiKey": _object(_API_KEY, {"quota": _QUOTA}),
    "MadeApiKey": _object({**_API_KEY, "key": _TEXT, "team": _object({"id": _TEXT, "name": _TEXT})}, {"quota": _QUOTA}),
    "ListedTemplate": _object(
        {
            **_TEMPLATE,
            **_SIZES,
            "createdBy": {"type": "null"},
            "buildCount": _NUMBER,
            "buildStatus": {"const": "ready"},
        }
    ),
    "TemplateDetail": _object({**_TEMPLATE, "builds": array_of("Build")}),
    "Build": _object(
        {**_SIZES, "status": {"const": "ready"}, "createdAt": _TIME, "updatedAt": _TIME, "finishedAt": _TIME}
    ),
    "TemplateAlias": _object({"templateID": _TEXT, "public": _FLAG}),
    "TemplateTag": _object({"tag": _TEXT, "buildID": _TEXT, "createdAt": _TIME}),
}
