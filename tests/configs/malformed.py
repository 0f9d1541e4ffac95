"""Definitions that are wrong in one way each, with the one sentence and the place that must be reported.

Read by the loader's tests and by the command line's: the same table, so that no way in says less than another.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Malformed(NamedTuple):
    """A folder's files, and what must be said about them, where; `path` is the file it is said about."""

    name: str
    files: dict[str, str | bytes]
    expected: str
    line: int
    column: int
    path: str = "agent.yaml"


def _file(name: str, content: str | bytes, expected: str, line: int, column: int) -> Malformed:
    return Malformed(name, {"agent.yaml": content}, expected, line, column)


def _third_line(name: str, rest: str, expected: str, column: int = 1, line: int = 3) -> Malformed:
    """Return a case whose fault begins on the third line, after a name and instructions."""
    return _file(name, f"name: helper\ninstructions: Help.\n{rest}\n", expected, line, column)


_SECRET: Final = "sk-live-0123456789abcdef0123456789"

BYTES: Final = [
    _file("an empty file", b"", "defines no agent", 1, 1),
    _file("a file of comments", "# nothing\n\n# here\n", "defines no agent", 1, 1),
    _file("a document mark alone", "---\n", "defines no agent", 1, 1),
    _file("a null document", "null\n", "defines no agent", 1, 1),
    _file("binary", b"\x7fELF\x02\x01\x01\x00\x00", "U+007F", 1, 1),
    _file("a NUL character", b"name: a\x00b\n", "U+0000", 1, 8),
    _file("a control character", "name: helper\ninstructions: a\x1b[31mb\n", "U+001B", 2, 16),
    _file("Latin-1", "name: helper\ninstructions: café\n".encode("latin-1"), "0xE9 is not UTF-8", 2, 18),
    _file("UTF-16", "name: helper\n".encode("utf-16"), "UTF-16", 1, 1),
    _file("a cut-off character", "name: helper\ninstructions: é".encode()[:-1], "0xC3 is not UTF-8", 2, 15),
    _file("a file of 10 MB", b"a: b\n" * 2_000_000, "larger than 1 MB", 1, 1),
    _file("a file just over 1 MB", b"#" * 1_000_001, "larger than 1 MB", 1, 1),
]

SYNTAX: Final = [
    _third_line("a tab as indentation", "limits:\n\tsteps: 3", "a tab stands in the indentation", line=4),
    _third_line("a tab before a key", "\ttype: x", "a tab stands in the indentation"),
    _third_line("a key indented too far", "  type: x", "indented too far", 7),
    _third_line("uneven indentation", "limits:\n    steps: 3\n  wall: 3", "does not fit", 3, line=5),
    _third_line("a colon in text", "description: note: this", "put text that holds ': ' in quotes", 18),
    _third_line("a key without a colon", "type\ndescription: x", "not 'key: value'"),
    _third_line("an open double quote", 'type: "x\ndescription: y', "never closed", 7),
    _third_line("an open single quote", "type: 'x\ndescription: y", "never closed", 7),
    _third_line("an open list", "tools: [calculate\ntype: x", "this bracket is never closed", 8),
    _third_line("an open mapping", "limits: {steps: 3\ntype: x", "this bracket is never closed", 9),
    _third_line("a bracket too many", "tools: [calculate]]", "does not fit", 19),
    _third_line("two commas", "capabilities: [a,, b]", "a value is missing here", 18),
    _third_line("a list among keys", "- calculate", "does not fit"),
    _third_line("a list on the key's line", "tools: - calculate", "a list cannot begin here", 8),
    _third_line("text after a quote", "type: 'x' y", "does not fit", 11),
    _third_line("an unknown escape", r'type: "a\qb"', r"this \ escape does not exist", 9),
    _third_line("half a surrogate pair", r'type: "\ud83d"', "no character that can be stored", 10),
    _third_line("a NUL escape", r'type: "a\0b"', "a NUL character", 7),
    _third_line("an @ at the start", "type: @x", "@ cannot begin a value", 7),
    _third_line("a backtick at the start", "type: `x`", "` cannot begin a value", 7),
    _third_line("text behind the bar", "description: |x\n  y", "nothing but a comment may follow | or >", 15),
    _third_line("text after the end mark", "...\ntype: x", "outside of any agent", line=4),
    _file("an unknown YAML version", "%YAML 3.0\n---\nname: helper\n", "YAML version is unknown", 1, 1),
    _file(
        "a merge conflict",
        "<<<<<<< HEAD\nname: helper\n=======\nname: other\n>>>>>>> theirs\n",
        "merge conflict",
        1,
        1,
    ),
    _third_line("a variable without quotes in brackets", "limits: {steps: ${STEPS:-3}}", '"${…}"', 17),
]

FEATURES: Final = [
    _third_line("an anchor", "type: &kind writer", "anchors (&kind) are not supported", 7),
    _third_line("an alias", "type: *kind", "aliases (*kind) are not supported", 7),
    _third_line("an alias as a key", "*kind : x", "aliases (*kind) are not supported"),
    _third_line("a merge key", "limits:\n  <<: {steps: 3}", "merge keys (<<) are not supported", 3, line=4),
    _third_line("a Python tag", "tools: !!python/object/apply:os.system [ls]", "tags ('tag:yaml.org,2002:python", 8),
    _third_line("a tag of one's own", "type: !kind x", "tags ('!kind') are not supported", 7),
    _third_line("a standard tag", "type: !!str 123", "tags ('tag:yaml.org,2002:str') are not supported", 7),
    _third_line("a list as a key", "? [a, b]\n: x", "a key must be a word", 3),
    _third_line("a key twice", "type: a\nname: other", "'name' stands here twice (first on line 1)", line=4),
    _third_line("a key twice, deep", "limits:\n  steps: 3\n  steps: 4", "'steps' stands here twice", 3, line=5),
    _third_line("a hundred levels", "tools: " + "[" * 100 + "]" * 100, "nested more than 20 levels", 28),
    _third_line(
        "ten thousand keys", "tools:\n" + "- {a: b}\n" * 4000, "more than 10,000 keys and values", 3, line=3335
    ),
    _file("a list of agents", "- name: helper\n  instructions: Help.\n", "an agent is a mapping of keys", 1, 1),
    _file("a word", "helper\n", "an agent is a mapping of keys", 1, 1),
    _file("a number", "42\n", "an agent is a mapping of keys", 1, 1),
]

KEYS: Final = [
    _file("no name", "instructions: Help.\n", "this agent has no name", 1, 1),
    _file("no instructions", "# mine\n\nname: helper\n", "this agent has no instructions", 3, 1),
    _third_line("a mistyped key", "modle: auto", "unknown key 'modle'; did you mean 'model'?"),
    _third_line("a key in capitals", "Tools: [calculate]", "unknown key 'Tools'; did you mean 'tools'?"),
    _third_line("a key like none", "colour: red", "the keys here are version, name, type,"),
    _third_line("a key of another place", "temperature: 0.5", "it belongs under model:"),
    _third_line("another program's key", "system_prompt: Hi", "did you mean 'instructions'?"),
    _third_line("a yes/no word as a key", "on: push", "unknown key 'on'"),
    _third_line("an invisible character in a key", "\u00a0type: x", r"unknown key '\xa0type'; did you mean 'type'?"),
    _third_line("a mistyped limit", "limits: {step: 3}", "unknown key 'step' in limits; did you mean 'steps'?", 10),
    _third_line("a mistyped model option", "model: {use: auto, temprature: 1}", "did you mean 'temperature'?", 20),
    _third_line("a mistyped tool option", "tools: [{name: note, time_out: 3s}]", "did you mean 'timeout'?", 22),
    _third_line("no attempts", "retry: {attempts: 0}", "must be a whole number from 1 to 100", 19),
    _third_line("a word for attempts", "retry: {attempts: often}", "must be a whole number from 1 to 100", 19),
    _third_line("retry as a number", "retry: 3", "must be a mapping such as {attempts: 3, backoff: 2s}", 8),
    _third_line("no pause", "retry: {attempts: 3, backoff: 0s}", "must be between 100ms and 24h", 31),
    _third_line("a pause in words", "retry: {attempts: 3, backoff: soon}", "must be a duration such as", 31),
    _third_line("an unknown key of retry", "retry: {attemps: 3}", "did you mean 'attempts'?", 9),
    _third_line("a pause without attempts", "retry: {backoff: 5s}", "needs attempts: of 2 or more", 8),
    _third_line(
        "a longest pause that is shorter", "retry: {attempts: 2, backoff: 5s, longest: 1s}", "is 1s, shorter than", 44
    ),
    _third_line("schedules as a mapping", "schedules: {cron: '0 9 * * *'}", "must be a list such as", 12),
    _third_line("a schedule without times", "schedules: [{input: hi}]", "this schedule has no times", 13),
    _third_line("a schedule without input", "schedules: [{cron: '0 9 * * *'}]", "this schedule asks nothing", 13),
    _third_line("a schedule with empty input", "schedules: [{cron: '0 9 * * *', input: ' '}]", "must not be empty", 40),
    _third_line("four fields", "schedules: [{cron: '0 9 * *', input: hi}]", "must have five fields", 20),
    _third_line("seconds", "schedules: [{cron: '0 0 9 * * *', input: hi}]", "must have five fields", 20),
    _third_line(
        "an hour that there is not",
        "schedules: [{cron: '0 25 * * *', input: hi}]",
        "the hour of '0 25 * * *' is none",
        20,
    ),
    _third_line("a day that never comes", "schedules: [{cron: '0 0 31 2 *', input: hi}]", "the day-of-month of", 20),
    _third_line(
        "a zone mistyped",
        "schedules: [{cron: '0 9 * * *', tz: Europe/Copenhagn, input: hi}]",
        "did you mean 'Europe/Copenhagen'?",
        37,
    ),
    _third_line(
        "a schedule's typo", "schedules: [{cron: '0 9 * * *', inpt: hi, input: hi}]", "did you mean 'input'?", 33
    ),
    _third_line(
        "two schedules of a name",
        "schedules: [{name: '2', cron: '0 9 * * *', input: a}, {cron: '0 9 * * *', input: b}]",
        "repeats",
        55,
    ),
    _third_line("token limits", "limits: {tokens: 50_000}", "limits.tokens is not supported yet", 10),
    _third_line("effects", 'tools: [{python: "a:b", effects: one}]', "read, idempotent, transactional or once", 34),
    _third_line("a yes/no word for effects", 'tools: [{python: "a:b", effects: yes}]', "tools[0].effects must be", 34),
    _third_line("a decision", 'tools: [{python: "a:b", on_unknown: skip}]', "must be retry, ask or fail", 37),
    _third_line(
        "approval",
        'tools: [{python: "a:b", approval: maybe}]',
        "tools[0].approval must be true or false, not 'maybe'",
        35,
    ),
    _third_line(
        "approve-within",
        'tools: [{python: "a:b", approve_within: 1h}]',
        "tools[0].approve_within is for tools with approval: true: add that, or remove approve_within",
        41,
    ),
    _third_line("another format", "version: 2", "version must be 1", 10),
]

VALUES: Final = [
    _file("a name that is a number", "name: 123\ninstructions: Help.\n", 'is a number value: write "123"', 1, 7),
    _file("a name that is a yes/no", "name: no\ninstructions: Help.\n", 'is a yes/no value: write "no"', 1, 7),
    _file("a name that is null", "name: null\ninstructions: Help.\n", 'means "no value": write "null"', 1, 7),
    _file("a name that is missing", "name:\ninstructions: Help.\n", "name has no value", 1, 1),
    _file("a name with capitals", "name: My Helper\ninstructions: Help.\n", "try 'my-helper'", 1, 7),
    _file("a name of 64 letters", f"name: {'a' * 64}\ninstructions: Help.\n", "at most 63", 1, 7),
    _file("a name like an option", "name: -helper\ninstructions: Help.\n", "try 'helper'", 1, 7),
    _file("a name that is a list", "name: [helper]\ninstructions: Help.\n", "must be text, not a list", 1, 7),
    _file("empty instructions", 'name: helper\ninstructions: " "\n', "instructions must not be empty", 2, 15),
    _file("instructions as a list", "name: helper\ninstructions:\n- Help.\n", "must be text, not a list", 3, 1),
    _third_line("a type of 101 letters", f"type: {'a' * 101}", "101 characters long, but at most 100", 7),
    _third_line("an empty type", 'type: ""', "type must not be empty", 7),
    _third_line("a type of two lines", 'type: "a\\nb"', "type must be on one line", 7),
    _third_line("a description that is a mapping", "description: {a: b}", "must be text, not a mapping", 14),
    _third_line("capabilities as text", "capabilities: research", "capabilities must be a list", 15),
    _third_line("a capability that is a number", "capabilities: [a, 7]", 'write "7" in quotes', 19),
    _third_line("a capability twice", "capabilities: [a, b, a]", "capabilities[2] repeats the text 'a'", 22),
    _third_line("a negative history", "history: {messages: -1}", "from 0 to 1000, not '-1'", 21),
    _third_line("a summary of whatever", "history: {summarize: maybe}", "must be true or false, not 'maybe'", 22),
    _third_line(
        "a quoted yes", 'history: {summarize: "true"}', "true or false, not the text 'true': remove the quotes", 22
    ),
    _third_line(
        "how often to summarize", "history: {summarize: 3}", "history.summarize must be true or false, not '3'", 22
    ),
    _third_line("a summary without a value", "history: {summarize: }", "must be true or false", 11),
    _third_line(
        "a summary of nothing", "history: {messages: 1, summarize: yes}", "a window of at least 2 messages", 35
    ),
    _third_line("a mistyped summary", "history: {summarise: true}", "did you mean 'summarize'?", 11),
    _third_line("history as a number", "history: 20", "history must be a mapping such as {messages: 20}", 10),
    _third_line("knowledge without a value", "knowledge:", "knowledge has no value"),
    _third_line("knowledge as a word", "knowledge: handbook", "knowledge must be a mapping such as {top_k: 6}", 12),
    _third_line(
        "knowledge without a tool",
        "knowledge: {top_k: 7}",
        "knowledge is for agents with a tool that reads documents: add search_knowledge to tools",
        12,
    ),
    _third_line("a mistyped top_k", "knowledge: {topk: 7}", "did you mean 'top_k'?", 13),
    _third_line("no passage", "knowledge: {top_k: 0}", "knowledge.top_k must be a whole number from 1 to 50", 20),
    _third_line("half a passage", "knowledge: {top_k: 1.5}", "must be a whole number", 20),
    _third_line("a way to search", "knowledge: {mode: bm25}", "must be hybrid, vector, words or rrf", 19),
    _third_line("a mistyped way to search", "knowledge: {mode: vectors}", "did you mean 'vector'?", 19),
    _third_line("a score over one", "knowledge: {threshold: 70}", "must be a number from 0 to 1, not '70'", 24),
    _third_line("tags as text", "knowledge: {tags: handbook}", "must be a list such as [handbook]", 19),
    _third_line("a tag twice", "knowledge: {tags: [a, a]}", "knowledge.tags[1] repeats the text 'a'", 23),
    _third_line("an empty tag", 'knowledge: {tags: [""]}', "must not be empty", 20),
    _third_line("a search that is no yes or no", "knowledge: {search_first: 3}", "must be true or false, not '3'", 27),
    _third_line(
        "a first search without the tool",
        "knowledge: {search_first: true}",
        "knowledge.search_first needs the tool search_knowledge: add it to tools, or leave this out",
        27,
    ),
    _third_line("memory without a value", "memory:", "memory has no value"),
    _third_line("memory as a word", "memory: auto", "memory must be a mapping such as {recall: 8}", 9),
    _third_line("a mistyped recall", "memory: {recal: 8}", "did you mean 'recall'?", 10),
    _third_line("too much to recall", "memory: {recall: 51}", "memory.recall must be a whole number from 0 to 50", 18),
    _third_line(
        "no room for memories", "memory: {budget: 5}", "memory.budget must be a whole number from 20 to 4000", 18
    ),
    _third_line("a way to capture", "memory: {capture: always}", "must be auto, tools or off", 19),
    _third_line("a mistyped way to capture", "memory: {capture: tool}", "did you mean 'tools'?", 19),
    _third_line(
        "no capture with a tool for it",
        "tools: [remember]\nmemory: {capture: off}",
        "memory.capture is off, and the agent has the tool remember: remove one of them",
        line=4,
        column=19,
    ),
    _third_line("limits without a value", "limits:", "limits has no value"),
    _third_line("no concurrency", "limits: {concurrency: 0}", "limits.concurrency must be a whole number", 23),
    _third_line("half a step", "limits: {steps: 1.5}", "limits.steps must be a whole number", 17),
    _third_line("quoted steps", 'limits: {steps: "20"}', "remove the quotes", 17),
    _third_line("steps in octal", "limits: {steps: 010}", "limits.steps must be a whole number", 17),
    _third_line("a duration without sense", "limits: {wall: soon}", "must be a duration such as '30s'", 16),
    _third_line("a duration in days", "limits: {wall: 2d}", "must be a duration", 16),
    _third_line("a negative duration", "limits: {wall: -5s}", "must be a duration", 16),
    _third_line("no duration at all", "limits: {wall: 0}", "limits.wall must be between 100ms and 24h", 16),
    _third_line("an endless duration", "limits: {wall: .inf}", "must be a duration", 16),
    _third_line("a week", "limits: {wall: 168h}", "limits.wall must be between 100ms and 24h", 16),
]

MODELS: Final = [
    _third_line("an unknown provider", "model: opnai:gpt-5", "did you mean 'openai:gpt-5'?", 8),
    _third_line("a provider of others", "model: anthropic:claude", "names no model this runtime knows", 8),
    _third_line("a model without provider", "model: gpt-5-mini", "did you mean 'openai:gpt-5-mini'?", 8),
    _third_line("a mistyped auto", "model: atuo", "did you mean 'auto'?", 8),
    _third_line("auto with a name", "model: auto:gpt", "auto takes no name", 8),
    _third_line("openai without a name", "model: openai", "'openai:' needs a model's name", 8),
    _third_line("scripted without a file", 'model: "scripted:"', "needs the path of a script", 8),
    _third_line("a space in a model", 'model: "openai: gpt-5"', "write 'openai:gpt-5'", 8),
    _third_line("a model that is a list", "model: [auto]", "model must name a model, not a list", 8),
    _third_line("a model without a value", "model:", "model has no value"),
    _third_line("a model that is a number", "model: 4", "names no model this runtime knows", 8),
    _third_line("options without use", "model: {temperature: 1}", "model needs use:", 8),
    _third_line(
        "provider and name apart",
        "model: {provider: openai}",
        "unknown key 'provider' in model; write provider and name as one",
        9,
    ),
    _third_line("a mistyped use", "model: {use: opnai:x}", "model.use unknown model provider 'opnai'", 14),
    _third_line("too hot", "model: {use: auto, temperature: 2.5}", "a number from 0 to 2, not '2.5'", 33),
    _third_line("a temperature in words", "model: {use: auto, temperature: hot}", "not 'hot'", 33),
    _third_line("no tokens", "model: {use: auto, max_tokens: 0}", "from 1 to 1_000_000", 32),
    _third_line("an address of files", "model: {use: 'openai:x', base_url: 'file:///etc'}", "must be an address", 36),
    _third_line(
        "a password in an address", "model: {use: 'openai:x', base_url: 'http://me:hunter2@h/v1'}", "api_key_env", 36
    ),
    _third_line("an address for auto", "model: {use: auto, base_url: 'http://h'}", "for openai: models only", 30),
    _third_line(
        "a key in place of its name", f"model: {{use: 'openai:x', api_key_env: {_SECRET}}}", "never the key itself", 39
    ),
    _third_line("a key", f"model: {{use: 'openai:x', api_key: {_SECRET}}}", "never write a key into a file", 26),
    _third_line("a key as a model", f"model: {_SECRET}", "a value that looks like a secret", 8),
]

TOOLS: Final = [
    _third_line("tools as text", "tools: calculate", "tools must be a list such as [calculate]", 8),
    _third_line("a tool that is a number", "tools:\n  - 7", 'write "7" in quotes', 5, line=4),
    _third_line("a tool that is a list", "tools: [[calculate]]", "must be a tool's name or a mapping", 9),
    _third_line("a tool with a space", "tools: [read notes]", "cannot be a tool's name", 9),
    _third_line("a function as a name", 'tools: ["os:system"]', 'write {python: "os:system"}', 9),
    _third_line("a tool twice", "tools: [note, calculate, note]", "tools[2] repeats the text 'note'", 26),
    _third_line("a function twice", 'tools: [{python: "a:b"}, {python: "a:b", timeout: 1s}]', "repeats", 26),
    _third_line("a tool with two sources", 'tools: [{name: note, python: "a:b"}]', "remove one of them", 9),
    _third_line("a tool without a source", "tools: [{timeout: 3s}]", "names no tool", 9),
    _third_line("a function without a module", "tools: [{python: charge}]", 'must be "module:function"', 18),
    _third_line("a function in a file", 'tools: [{python: "tools/billing.py:charge"}]', '"tools.billing:charge"', 18),
    _third_line("code for a function", """tools: [{python: "os:system('ls')"}]""", 'must be "module:function"', 18),
    _third_line("a word of Python", 'tools: [{python: "a:import"}]', "a word of the Python language", 18),
    _third_line("a bad time limit", "tools: [{name: note, timeout: fast}]", "tools[0].timeout must be a duration", 31),
    _third_line("a long time limit", "tools: [{name: note, timeout: 2h}]", "between 100ms and 1h", 31),
]

VARIABLES: Final = [
    _third_line("an unset variable", "type: ${NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE is not set", 7),
    _third_line("an unset variable in text", "description: |\n  One\n  ${NOT_SET_ANYWHERE}", "is not set", 3, line=5),
    _third_line("a secret variable", "description: x ${OPENAI_API_KEY}", "use api_key_env", 16),
    _third_line("a secret with a default", "description: ${DB_PASSWORD:-x}", "looks like a secret", 14),
    _third_line("an open variable", "description: a ${NAME", "names no environment variable", 16),
    _third_line("a bad variable", "description: a ${a b}", "write ${NAME} or ${NAME:-default}", 16),
    _third_line("a variable in a variable", "description: '${A:-${B:-c}}'", "names no environment variable", 15),
    _third_line("a variable that is no number", "limits: {steps: '${A:-many}'}", "not 'many'", 17),
]

SEVERAL: Final = [
    Malformed(
        "one name in two files",
        {"a.yaml": "name: helper\ninstructions: A.\n", "b/b.yml": "\nname: helper\ninstructions: B.\n"},
        "an agent named 'helper' is already defined at",
        2,
        7,
        "b/b.yml",
    ),
    _file(
        "one name twice in a file",
        "name: helper\ninstructions: A.\n---\nname: helper\ninstructions: B.\n",
        "agent.yaml:1:7: rename one of them",
        4,
        7,
    ),
    _file(
        "a bad second document", "name: a\ninstructions: A.\n---\nname: b\ninstructions: B.\ntipe: x\n", "'type'", 6, 1
    ),
    Malformed(
        "a good file beside a bad one",
        {"agent.yaml": "name: helper\ninstructions: [\n", "good.yaml": "name: good\ninstructions: Help.\n"},
        "this bracket is never closed",
        2,
        15,
    ),
]

MALFORMED: Final[list[Malformed]] = [
    *BYTES,
    *SYNTAX,
    *FEATURES,
    *KEYS,
    *VALUES,
    *MODELS,
    *TOOLS,
    *VARIABLES,
    *SEVERAL,
]
