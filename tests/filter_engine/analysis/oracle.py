"""The same questions, asked of an SMT solver about all requests of a small world.

The world has each value that the generated policies name, and others for each kind that they can tell apart.
So the solver finds a request if and only if the exact analyses have to find one. What it knows of policies
and of the world is written here a second time, and shares nothing with the engine but the rules as data.
"""

import ipaddress
import re
from random import Random

import z3

from filter_engine.model import STAGES

LEVELS = ["None", "Metadata", "Request", "RequestResponse"]
ACCOUNT = "system:serviceaccount:"
USERS = [
    None, "system:anonymous", "alice", "bob", "ci-bot", "ci-1", "my-bot", "kubelet", "other",
    "system:kube-proxy", "system:other", "system:other-bot",
    "system:node:n1", "system:node:n2", "system:node:n-bot",
    "system:bootstrap:abc", "system:bootstrap:a-bot",
    *(
        f"{ACCOUNT}{namespace}:{name}"
        for namespace in ("kube-system", "kube-public", "ci", "shop", "else")
        for name in ("default", "builder", "other-bot")
    ),
]  # fmt: skip
GROUPS = [
    "system:authenticated", "system:unauthenticated", "system:serviceaccounts", "system:nodes",
    "system:masters", "system:bootstrappers", "developers", "oidc:admins", "oidc:guests", "others",
    *(f"system:serviceaccounts:{name}" for name in ("kube-system", "kube-public", "ci", "shop", "else")),
]  # fmt: skip
RESOURCE_VERBS = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "proxy",
    "",
]
METHODS = [
    "get",
    "head",
    "post",
    "put",
    "patch",
    "delete",
    "options",
    "connect",
    "trace",
    "propfind",
    "mkcol",
]
VERBS = list(dict.fromkeys([*RESOURCE_VERBS, *METHODS]))
ALL = {"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}
OF_OBJECTS = {"get", "patch", "update"}
# By group and resource: whether it is namespaced, its verbs, and its subresources.
KNOWN = {
    ("", "pods"): (True, ALL, {"log": {"get"}, "exec": {"get", "create"}, "status": OF_OBJECTS}),
    ("", "secrets"): (True, ALL, {}),
    ("", "nodes"): (False, ALL, {"status": OF_OBJECTS, "proxy": {"create", "delete", *OF_OBJECTS}}),
    ("", "namespaces"): (False, ALL - {"deletecollection"}, {"status": OF_OBJECTS}),
    ("apps", "deployments"): (True, ALL, {"scale": OF_OBJECTS, "status": OF_OBJECTS}),
}
SUBRESOURCES = ["", "log", "exec", "status", "scale", "attach", "proxy", "portforward", "other"]
TARGETS = [
    (group, resource, subresource)
    for group in ("", "apps", "a.example.com", "c.example.com", "b.example.org")
    for resource in ("pods", "secrets", "nodes", "namespaces", "deployments", "things")
    for subresource in SUBRESOURCES
]
NAMESPACES = ["", "kube-system", "kube-public", "ci", "shop", "else", "web", "web-1"]
NAMES = ["", "kube-system", "kube-public", "ci", "shop", "else", "web", "web-1", "db"]
PATHS = [
    "/healthz",
    "/healthz/etcd",
    "/metrics",
    "/other",
    "/debug/pprof/",
    "/debug/pprof/heap",
    "/api",
    "/api/v1",
]
CODES = [None, 200, 201, 404, 400, 401, 403, 500, 503]
AGENTS = [None, "kubectl/1", "kubelet/1", "other"]
ADDRESSES = [("10.0.0.1",), ("10.1.0.1",), ("fd00::1",), ("10.0.0.1", "192.0.2.1"), ("192.0.2.1",)]
DECISIONS = [None, "allow", "forbid"]


def pattern(text):
    return re.compile("".join(".*" if letter == "*" else re.escape(letter) for letter in text), re.DOTALL)


class World:
    """A request, as variables of the solver, and what is known of it."""

    def __init__(self):
        self.solver = z3.Solver()
        self.variables, self.values, self.atoms, self.cache = {}, {}, {}, {}
        for name, values in {
            "user": USERS, "verb": VERBS, "target": [None, *TARGETS], "namespace": NAMESPACES, "name": NAMES,
            "path": PATHS, "stage": list(STAGES), "level": LEVELS[1:], "code": CODES, "agent": AGENTS,
            "addresses": ADDRESSES, "impersonated": [None, "alice", "system:node:n1", "bob"],
            "decision": DECISIONS,
        }.items():  # fmt: skip
            variable = z3.Int(name)
            self.values[name] = values
            self.atoms[name] = [variable == index for index in range(len(values))]
            self.solver.add(variable >= 0, variable < len(values))
        self.groups = {group: z3.Bool(f"group {group}") for group in GROUPS}
        self.facts()

    def where(self, name, test):
        """That a field has one of the values that pass a test."""
        chosen = tuple(index for index, value in enumerate(self.values[name]) if test(value))
        key = name, chosen
        if key not in self.cache:
            if len(chosen) == len(self.values[name]):
                self.cache[key] = z3.BoolVal(True)
            else:
                self.cache[key] = z3.Or([self.atoms[name][index] for index in chosen])
        return self.cache[key]

    def facts(self):
        where, add = self.where, self.solver.add
        self.is_resource = where("target", lambda target: target is not None)
        for index, user in enumerate(USERS):
            self.user_facts(self.atoms["user"][index], user)
        nobody = where("user", lambda user: user is None)
        stage = {each: where("stage", lambda value, each=each: value == each) for each in STAGES}
        add(stage["RequestReceived"] == where("code", lambda code: code is None))
        add(z3.Implies(stage["Panic"], where("code", lambda code: code == 500)))
        for name in ("impersonated", "decision"):
            absent = where(name, lambda value: value is None)
            add(z3.Implies(z3.Or(stage["RequestReceived"], nobody), absent))
        add(
            z3.Implies(
                where("decision", lambda each: each == "forbid"), where("code", lambda code: code == 403)
            )
        )
        add(
            z3.Implies(
                nobody, z3.And(stage["ResponseStarted"], where("code", lambda code: code in (400, 401)))
            )
        )
        long = z3.Or(
            z3.And(self.is_resource, where("verb", lambda verb: verb in ("watch", "proxy"))),
            where("target", lambda t: t and t[2] in ("attach", "exec", "log", "portforward", "proxy")),
            z3.And(z3.Not(self.is_resource), where("path", lambda path: path.startswith("/debug/pprof/"))),
        )
        add(z3.Implies(stage["ResponseStarted"], z3.Or(nobody, long)))
        add(z3.If(
            self.is_resource,
            where("verb", lambda verb: verb in RESOURCE_VERBS),
            where("verb", lambda verb: verb in METHODS),
        ))  # fmt: skip
        no_name = where("name", lambda name: name == "")
        itself = where("target", lambda target: target and target[2] == "")

        def verbs(*verbs):
            return where("verb", lambda verb: verb in verbs)

        add(z3.Implies(self.is_resource, z3.And(
            z3.Implies(verbs("get", "update", "patch", "delete"), z3.Not(no_name)),
            z3.Implies(z3.And(verbs("create", "deletecollection"), itself), no_name),
            z3.Implies(z3.Not(itself), z3.Not(no_name)),
            z3.Implies(verbs("list", "watch", "deletecollection", "proxy"), itself),
        )))  # fmt: skip
        for group, resource in KNOWN:
            self.kubernetes_facts(group, resource)

    def user_facts(self, this, user):
        certain, possible = {"system:authenticated"}, {"system:masters", "developers"}
        possible |= {"oidc:admins", "oidc:guests", "others"}
        if user is None:
            certain = possible = set()
        elif user == "system:anonymous":
            certain, possible = {"system:unauthenticated"}, set()
        elif user.startswith(ACCOUNT):
            certain |= {"system:serviceaccounts", f"system:serviceaccounts:{user.split(':')[2]}"}
            possible = set()
        elif user.startswith("system:node:"):
            certain |= {"system:nodes"}
            possible |= {"system:bootstrappers"}
        elif user.startswith("system:bootstrap:"):
            certain |= {"system:bootstrappers"}
        for group, has in self.groups.items():
            if group in certain:
                self.solver.add(z3.Implies(this, has))
            elif group not in possible:
                self.solver.add(z3.Implies(this, z3.Not(has)))

    def kubernetes_facts(self, group, resource):
        is_namespaced, verbs, subresources = KNOWN[group, resource]
        where, add = self.where, self.solver.add
        this = where("target", lambda target: target and target[:2] == (group, resource))
        cluster = where("namespace", lambda namespace: namespace == "")
        if is_namespaced:
            add(z3.Implies(z3.And(this, cluster), where("verb", lambda verb: verb in ("list", "watch", ""))))
        elif resource == "namespaces":
            of_many = where("verb", lambda verb: verb in ("list", "watch"))
            add(z3.Implies(z3.And(this, of_many), cluster))
            add(z3.Implies(z3.And(this, z3.Not(of_many)), z3.Or([
                z3.And(where("namespace", lambda each, one=one: each == one),
                       where("name", lambda each, one=one: each == one))
                for one in NAMESPACES
            ])))  # fmt: skip
        else:
            add(z3.Implies(this, cluster))
        for subresource in SUBRESOURCES:
            exact = where("target", lambda target, sub=subresource: target == (group, resource, sub))
            has = subresources.get(subresource, set()) if subresource else verbs
            if not has and (group, resource, subresource) == ("", "pods", "other"):
                continue
            has = self.all_verbs(resource, subresource) if subresource else has
            add(z3.Implies(exact, where("verb", lambda verb, has=has: bool(has) and verb in (*has, ""))))

    @staticmethod
    def all_verbs(resource, subresource):
        """The verbs of a subresource. ``other`` is any that the policies do not name."""
        if resource == "pods":
            return {
                "log": {"get"}, "exec": {"get", "create"}, "attach": {"get", "create"}, "status": OF_OBJECTS,
                "portforward": {"get", "create"}, "proxy": {"create", "delete", *OF_OBJECTS},
                "other": {"create", *OF_OBJECTS},
            }.get(subresource, set())  # fmt: skip
        if resource == "namespaces" and subresource == "other":
            return {"update"}
        return KNOWN.get(("apps", resource), KNOWN.get(("", resource), (0, 0, {})))[2].get(subresource, set())

    def rule(self, rule, patterns):
        """That a rule matches."""
        return z3.And(
            self.conditions(rule, patterns),
            *(z3.Not(self.conditions(each, patterns)) for each in rule.get("except", ())),
        )

    def conditions(self, rule, patterns):  # noqa: PLR0912 - a row of conditions
        def among(values):
            if not patterns:
                return lambda text: text is not None and text in values
            compiled = [pattern(value) for value in values]
            return lambda text: text is not None and any(each.fullmatch(text) for each in compiled)

        where, found = self.where, []
        if "users" in rule:
            found.append(where("user", among(rule["users"])))
        if "userGroups" in rule:
            test = among(rule["userGroups"])
            found.append(z3.Or([has for group, has in self.groups.items() if test(group)]))
        if "verbs" in rule:
            found.append(where("verb", lambda verb: verb in rule["verbs"]))
        if "namespaces" in rule:
            found += [self.is_resource, where("namespace", among(rule["namespaces"]))]
        if "resources" in rule:
            found.append(z3.Or([self.element(element, among, patterns) for element in rule["resources"]]))
        if "nonResourceURLs" in rule:
            stars = [pattern(url) if "*" in url else url for url in rule["nonResourceURLs"]]
            found += [
                z3.Not(self.is_resource),
                where("path", lambda path: any(
                    path == each if isinstance(each, str) else each.fullmatch(path) for each in stars
                )),
            ]  # fmt: skip
        if "stages" in rule:
            found.append(where("stage", lambda stage: stage in rule["stages"]))
        if "levels" in rule:
            found.append(where("level", lambda level: level in rule["levels"]))
        if "responseCodes" in rule:
            found.append(where("code", lambda code: code is not None and any(
                str(code) == str(each) or f"{code // 100}xx" == each for each in rule["responseCodes"]
            )))  # fmt: skip
        if "userAgents" in rule:
            found.append(where("agent", among(rule["userAgents"])))
        if "impersonatedUsers" in rule:
            found.append(where("impersonated", among(rule["impersonatedUsers"])))
        if "annotations" in rule:
            found.append(where("decision", among(rule["annotations"]["authorization.k8s.io/decision"])))
        if "sourceIPs" in rule:
            networks = [ipaddress.ip_network(each) for each in rule["sourceIPs"]]
            found.append(where("addresses", lambda each: all(
                any(ipaddress.ip_address(one) in network for network in networks) for one in each
            )))  # fmt: skip
        if "ownNamespace" in rule:
            found.append(z3.Or([
                z3.And(
                    where("user", lambda user, one=one: user and user.startswith(f"{ACCOUNT}{one}:")),
                    where("namespace", lambda each, one=one: each == one),
                    self.is_resource,
                )
                for one in NAMESPACES[1:]
            ]))  # fmt: skip
        return z3.And(found)

    def element(self, element, among, patterns):
        resources = element.get("resources", ())

        def text(value, wanted):
            return pattern(wanted).fullmatch(value) if patterns else value == wanted

        def matches(target):
            if target is None:
                return False
            group, resource, subresource = target
            if element["group"] != "*" and not text(group, element["group"]):
                return False
            if not resources or "*" in resources:
                return True
            for each in resources:
                first, slash, last = each.partition("/")
                is_it = first == "*" or text(resource, first)
                if is_it and (last == "*" or (subresource == last if slash else not subresource)):
                    return True
            return False

        names = element.get("resourceNames")
        found = self.where("target", matches)
        return z3.And(found, self.where("name", among(names))) if names and resources else found

    def level(self, policy):
        """The level at which a policy records the request, as a number."""
        patterns = policy["kind"] == "FilterPolicy"

        def recorded(rule):
            omitted = {*policy.get("omitStages", ()), *rule.get("omitStages", ())}
            kept = self.where("stage", lambda stage: stage not in omitted)
            return z3.If(kept, LEVELS.index(rule["level"]), 0)

        level = recorded({"level": policy.get("defaultLevel", "None")})
        for rule in reversed(policy["rules"]):
            level = z3.If(self.rule(rule, patterns), recorded(rule), level)
        return level

    def matches(self, policy):
        """For each rule, that it decides; and at last, that none does."""
        patterns = policy["kind"] == "FilterPolicy"
        rules = [self.rule(rule, patterns) for rule in policy["rules"]]
        none = [z3.And([z3.Not(each) for each in rules[:index]]) for index in range(len(rules) + 1)]
        return [*(z3.And(none[index], rule) for index, rule in enumerate(rules)), none[-1]]

    def is_possible(self, *conditions):
        return self.solver.check(*conditions) == z3.sat


NAMED = {
    "users": ["alice", "bob", "kubelet", "system:kube-proxy", "system:node:n1", "system:anonymous",
              f"{ACCOUNT}kube-system:default", f"{ACCOUNT}ci:builder"],
    "userGroups": ["system:nodes", "system:authenticated", "system:unauthenticated", "system:masters",
                   "developers", "system:serviceaccounts", "system:serviceaccounts:kube-system",
                   "system:serviceaccounts:ci"],
    "verbs": ["get", "list", "watch", "create", "update", "patch", "delete", "post"],
    "namespaces": ["", "kube-system", "ci", "shop"],
    "nonResourceURLs": ["/healthz", "/healthz*", "/metrics", "*", "/debug/pprof/*", "/api*"],
    "stages": list(STAGES),
    "levels": LEVELS[1:],
    "responseCodes": ["2xx", "4xx", "403", "401", "500"],
    "userAgents": ["kubectl/1", "kubelet/*", "*"],
    "impersonatedUsers": ["alice", "system:node:*", "*"],
    "sourceIPs": ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"],
}  # fmt: skip
PATTERNS = {
    "users": ["ci-*", "*-bot", "system:*", f"{ACCOUNT}*", f"{ACCOUNT}kube-*", "system:node:*", "*"],
    "userGroups": ["oidc:*", "system:serviceaccounts:*", "system:serviceaccounts:kube-*", "*"],
    "namespaces": ["kube-*", "*"],
}
KUBERNETES = ["users", "userGroups", "verbs"]
MORE = ["stages", "levels", "responseCodes", "userAgents", "impersonatedUsers", "sourceIPs"]


def some(random, values, most=3):
    return random.sample(values, random.randint(1, min(most, len(values))))


def random_conditions(random, patterns):
    found = {}
    for name in KUBERNETES + (MORE if patterns else []):
        if random.random() < (0.35 if name in KUBERNETES else 0.1):
            found[name] = some(random, NAMED[name] + (PATTERNS.get(name, []) if patterns else []))
    where = random.random()
    if where < 0.15:
        found["nonResourceURLs"] = some(random, NAMED["nonResourceURLs"], 2)
        return found
    if where < 0.65:
        found["resources"] = [random_element(random, patterns) for _ in range(random.randint(1, 2))]
    if where > 0.5 and random.random() < 0.6:
        found["namespaces"] = some(
            random, NAMED["namespaces"] + (PATTERNS["namespaces"] if patterns else []), 2
        )
    if patterns and random.random() < 0.08:
        found["annotations"] = {"authorization.k8s.io/decision": some(random, ["allow", "forbid", "*"], 1)}
    if patterns and random.random() < 0.08:
        found["ownNamespace"] = "same"
    return found


def random_element(random, patterns):
    element = {
        "group": random.choice(
            ["", "", "apps", "*", "a.example.com"] + (["*.example.com"] if patterns else [])
        )
    }
    if random.random() < 0.8:
        element["resources"] = some(random, [
            "pods", "secrets", "nodes", "namespaces", "deployments", "pods/*", "pods/log", "pods/exec",
            "*/status", "deployments/scale", "*", "nodes/status", "nodes/proxy",
        ])  # fmt: skip
        if random.random() < 0.2:
            names = ["web", "", "kube-system"] + (["web*"] if patterns else [])
            element["resourceNames"] = some(random, names, 2)
    return element


def random_policy(random, kind=None):
    """A policy that the world can tell everything about."""
    kind = kind or random.choice(["Policy", "FilterPolicy"])
    patterns = kind == "FilterPolicy"
    rules = []
    for _ in range(random.randint(1, 6)):
        rule = {"level": random.choice(LEVELS), **random_conditions(random, patterns)}
        if random.random() < 0.15:
            rule["omitStages"] = some(random, list(STAGES), 2)
        if patterns and random.random() < 0.3:
            excepted = [random_conditions(random, patterns) for _ in range(random.randint(1, 2))]
            rule |= {"except": [each for each in excepted if each]} if any(excepted) else {}
        rules.append(rule)
    policy = {"kind": kind, "rules": rules}
    if random.random() < 0.3:
        policy["omitStages"] = ["RequestReceived"]
    if patterns:
        policy["apiVersion"] = "kube-audit-filter.io/v1"
        policy["defaultLevel"] = random.choice(LEVELS)
    else:
        policy["apiVersion"] = "audit.k8s.io/v1"
    return policy


def random_pair(seed):
    """Two policies, half of the time one a change of the other."""
    random = Random(seed)
    old = random_policy(random)
    if random.random() < 0.5:
        return old, random_policy(random)
    rules = list(old["rules"])
    other = random_policy(random, old["kind"])["rules"][0]
    change = random.randrange(3)
    if change == 0:
        rules.insert(random.randint(0, len(rules)), other)
    elif change == 1:
        rules[random.randrange(len(rules))] = other
    elif len(rules) > 1:
        one = random.randrange(len(rules) - 1)
        rules[one], rules[one + 1] = rules[one + 1], rules[one]
    return old, {**old, "rules": rules}
