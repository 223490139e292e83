"""Documents of any size that ask for more than they have bytes, by what they ask."""

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
RULES = "rules: [{level: None}]\n"
JSON_HEAD = '{"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "None"}]'


def fill(size, piece):
    """A piece as often as fits; ``%d`` in it counts."""
    if "%d" not in piece:
        return piece * (size // len(piece))
    return "".join(piece.replace("%d", str(i)) for i in range(size // (len(piece) + 4)))


def half(start, first, middle, second):
    """Two pieces, each in a half of the size."""
    return lambda size: start + fill(size // 2, first) + middle + fill(size // 2, second)


def around(start, piece, end=""):
    return lambda size: start + fill(size, piece) + end


YAML = {
    "merges of a thousand keys": lambda size: (
        f"a: &a {{{fill(9000, 'k%d: x, ')}}}\n{HEAD}{RULES}b:\n{fill(size, '  <<: *a' + chr(10))}"
    ),
    "one list of merges": lambda size: (
        f"a: &a {{{fill(9000, 'k%d: x, ')}}}\n{HEAD}{RULES}b: {{<<: [{fill(size, '*a, ')}]}}\n"
    ),
    "merges of growing maps": lambda size: (
        HEAD
        + RULES
        + "x0: &x0 {a: b}\n"
        + "".join(f"x{i}: &x{i} {{<<: *x{i - 1}, k{i}: v}}\n" for i in range(1, size // 35))
    ),
    "aliases of a long text": lambda size: (
        f"a: &a {'x' * (size // 2)}\n{HEAD}{RULES}omitStages: [{fill(size // 2, '*a, ')}]\n"
    ),
    "aliases of aliases": lambda size: (
        HEAD + "a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, size // 60))
    ),
    "stages that there are not": around(HEAD + RULES + "omitStages: [", "x, ", "]\n"),
    "rules without a level": around(HEAD + "rules: [", "{}, ", "]\n"),
    "rules of a wrong type": around(HEAD + "rules: [", "a, ", "]\n"),
    "lists of a wrong type": around(HEAD + "rules:\n", "- {level: None, users: a}\n"),
    "bad groups": around(HEAD + "rules: [{level: None, resources: [", "{group: A}, ", "]}]\n"),
    "bad URLs": around(HEAD + "rules: [{level: None, nonResourceURLs: [", "a*b, ", "]}]\n"),
    "URLs beside namespaces": around(
        HEAD + "rules: [{level: None, namespaces: [a], nonResourceURLs: [", "/a, ", "]}]\n"
    ),
    "names without resources": around(
        HEAD + "rules: [{level: None, resources: [{resourceNames: [", "a, ", "]}]}]\n"
    ),
    "unknown fields": around(HEAD + RULES, "levels%d: x\n"),
    "unknown fields in rules": around(HEAD + "rules:\n", "- {level: None, user%d: x}\n"),
    "duplicate keys": around(HEAD + RULES + "metadata: {labels: {", "a: b, ", "}}\n"),
    "duplicate fields": around(HEAD + RULES, "kind: Policy\n"),
    "one long key": lambda size: f"{HEAD}{RULES}? {'k' * size}\n: x\n",
    "long keys": around(HEAD + RULES + "metadata: {labels: {", "k" * 900 + "%d: [], ", "}}\n"),
    "long texts of a wrong type": around(HEAD + "rules: [{level: None, users: [[", "u" * 900 + ", ", "]]}]"),
    "a long level": lambda size: f"{HEAD}rules: [{{level: {'x' * size}}}]\n",
    "a long group": lambda size: (
        f"{HEAD}rules: [{{level: None, resources: [{{group: {'a.' * (size // 2)}}}]}}]"
    ),
    "a long group of one label": lambda size: (
        f"{HEAD}rules: [{{level: None, resources: [{{group: {'a' * size}!}}]}}]\n"
    ),
    "a long number": lambda size: f"{HEAD}rules: [{{level: None, users: [{'1' * size}]}}]\n",
    "a long number with a point": lambda size: f"{HEAD}rules: [{{level: None, users: [1.{'1' * size}e5]}}]\n",
    "a long anchor": lambda size: f"{HEAD}{RULES}a: *{'a' * size}\n",
    "many anchors": around(HEAD + RULES, "a%d: &a%d x\n"),
    "names of rules": around(
        HEAD + RULES + "metadata:\n  annotations:\n", "    kube-audit-filter/rule-%d: a\n"
    ),
    "directives": around("", "%TAG !a%d! x\n", "---\n" + HEAD + RULES),
    "directives in UTF-16": lambda size: ("\ufeff" + "%TAG !a! x\n" * (size // 22)).encode("utf-16-le"),
    "directives before a fault": lambda size: fill(size, "%TAG !a%d! x\x85").encode() + b"\xff",
    "tags": around(HEAD + RULES + "a: [", "!!str x, ", "]\n"),
    "unclosed lists": around(HEAD + RULES + "a: ", "["),
    "lists in lists of blocks": around(HEAD + RULES + "a:\n  ", "- "),
    "colons before brackets": around(HEAD + "rules: [{level: None, users: [", "a:,", "]}]\n"),
    "words with question marks": around(HEAD + "rules: [{level: None, users: [", "a?,", "]}]\n"),
    "byte order marks": around(HEAD + RULES, "\n\ufeff"),
    "braces of templates": around(HEAD, "{{ x }}\n"),
    "comments": around("", "#\n"),
    "space": around("", " \n"),
    "blank lines with tabs": around("", "\t\n"),
    "documents": around("", "---\n"),
    "a template": around(HEAD + "a: ", "{{ .Values.x }}\n"),
    "empty maps": around(HEAD + RULES + "a: [", "{},", "]\n"),
    "policies in a list": around("items:\n", "- {apiVersion: audit.k8s.io/v1, rules: []}\n"),
    "texts that look like policies": around("items:\n", "- 'audit.k8s.io/v1 '\n"),
    "stages in the policy and rules": half(
        HEAD + "omitStages: [", "Panic, ", "]\nrules:\n", "- {level: None}\n"
    ),
}
JSON = {
    "repeated metadata": around(JSON_HEAD, ', "metadata": {"labels": {"k%d": "x"}}', "}"),
    "repeated rules": around(JSON_HEAD, ', "rules": [{"users": ["a"], "level": "None"}]', "}"),
    "a rule repeated after many": lambda size: (
        JSON_HEAD
        + ', "rules": ['
        + fill(size // 2, '{"level":"None"},')
        + "{}]"
        + fill(size // 2, ',"rules":[{}]')
        + "}"
    ),
    "repeated metadata after many labels": lambda size: (
        JSON_HEAD
        + ', "metadata": {"labels": {'
        + fill(size // 2, '"k%d":"x",')
        + '"z":"x"}}'
        + fill(size // 2, ',"metadata":{"labels":{"a":"b"}}')
        + "}"
    ),
    "duplicate keys": around(JSON_HEAD + ', "x": {"a": 1', ', "a": 1', "}}"),
    "stages that there are not": around(JSON_HEAD + ', "omitStages": ["x"', ',"x"', "]}"),
    "unknown fields": around(JSON_HEAD, ', "levels%d": 1', "}"),
    "empty lists": around(JSON_HEAD + ', "x": [[]', ",[]", "]}"),
    "unclosed lists": around(JSON_HEAD + ', "x": ', "["),
    "unclosed objects": around(JSON_HEAD + ', "x": ', '{"a":'),
    "space": around("{", " \n", "}"),
    "a long text": lambda size: JSON_HEAD + ', "omitStages": ["' + "x" * size + '"]}',
    "a long key": lambda size: JSON_HEAD + ', "' + "x" * size + '": 1}',
    "a long number": lambda size: JSON_HEAD + ', "x": ' + "1" * size + "}",
    "a long fraction": lambda size: JSON_HEAD + ', "x": 1.' + "1" * size + "}",
    "escapes": around(JSON_HEAD + ', "x": "', "\\ud800", '"}'),
    "an audit log": around("", '{"kind":"Event","auditID":"a","verb":"get"}\n'),
    "objects behind each other": around("", "{}"),
    "commas": around("{", ","),
}
DOCUMENTS = {f"yaml: {name}": make for name, make in YAML.items()} | {
    f"json: {name}": make for name, make in JSON.items()
}
