"""What is never seen, as sets of requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from filter_engine.analysis import world
from filter_engine.analysis.condition_sets import Fields, Sets, annotation_field
from filter_engine.analysis.domains import Domain, TextDomain
from filter_engine.analysis.kubernetes_resources import Resource, built_in
from filter_engine.analysis.user_domains import Users
from filter_engine.analysis.world import ACCOUNTS, account

# By the classes of a user and of a namespace, and by their relation: a user's name and a namespace.
Owners = Mapping[tuple[int, int, int], tuple[str, str]]


def facts_of(fields: Fields, owners: Owners) -> Iterator[Sets]:
    """The requests that are never seen.

    Args:
        fields: the fields of requests for resources, or of other requests.
        owners: what :func:`owners_of` found.
    """
    yield from _recording(fields)
    yield from _long_requests(fields)
    if "resources" in fields:
        yield from _verbs(fields)
        yield from _kubernetes(fields)
        yield from _namespaces_themselves(fields)
    if "ownNamespace" in fields:
        yield from _own_namespaces(fields, owners)


def _without(domain: Domain, mask: int) -> int:
    return domain.all & ~mask


def _recording(fields: Fields) -> Iterator[Sets]:
    """Stages, codes, and what is recorded at which stage."""
    stages, codes, users = fields["stages"], fields["responseCodes"], fields["users"]
    received, started = stages.among(["RequestReceived"]), stages.among(["ResponseStarted"])
    no_code, nobody = codes.among([None]), users.among([None])
    yield {"stages": received, "responseCodes": _without(codes, no_code)}
    yield {"stages": _without(stages, received), "responseCodes": no_code}
    yield {"stages": stages.among(["Panic"]), "responseCodes": _without(codes, codes.among([500]))}
    yield {"users": nobody, "stages": _without(stages, started)}
    yield {"users": nobody, "responseCodes": _without(codes, codes.among(world.CODES_OF_NOBODY))}
    impersonated = fields["impersonatedUsers"]
    nobody_else = impersonated.among([None])
    yield {"stages": received, "impersonatedUsers": _without(impersonated, nobody_else)}
    yield {"users": nobody, "impersonatedUsers": _without(impersonated, nobody_else)}
    decision = fields.get(annotation_field(world.DECISION_ANNOTATION))
    if decision is not None:
        decided = _without(decision, decision.among([None]))
        yield {decision.name: decided, "stages": received}
        yield {decision.name: decided, "users": nobody}
        forbidden = decision.among(["forbid"])
        yield {decision.name: forbidden, "responseCodes": _without(codes, codes.among([403]))}
        yield {decision.name: _without(decision, decision.among(["allow", "forbid", None]))}


def _long_requests(fields: Fields) -> Iterator[Sets]:
    """The stage ResponseStarted is recorded of requests that may take long, and of nobody's."""
    stages, users = fields["stages"], fields["users"]
    started, everyone = stages.among(["ResponseStarted"]), _without(users, users.among([None]))
    if "resources" in fields:
        verbs, subresources = fields["verbs"], fields["subresources"]
        yield {
            "users": everyone,
            "stages": started,
            "verbs": _without(verbs, verbs.among(world.LONG_VERBS)),
            "subresources": _without(subresources, subresources.among(world.LONG_SUBRESOURCES)),
        }
    else:
        paths = fields["nonResourceURLs"]
        yield {
            "users": everyone,
            "stages": started,
            "nonResourceURLs": _without(paths, paths.where(world.LONG_PATHS.matches)),
        }


def _verbs(fields: Fields) -> Iterator[Sets]:
    """Which requests name an object."""
    verbs, subresources, names = fields["verbs"], fields["subresources"], fields["resourceNames"]
    of_one = verbs.among(["get", "update", "patch", "delete"])
    of_many = verbs.among(["create", "deletecollection"])
    itself, no_name = subresources.among([""]), names.among([""])
    yield {"verbs": of_one, "resourceNames": no_name}
    yield {"verbs": of_many, "subresources": itself, "resourceNames": _without(names, no_name)}
    yield {"subresources": _without(subresources, itself), "resourceNames": no_name}
    without_subresources = verbs.among(["list", "watch", "deletecollection", "proxy"])
    yield {"verbs": without_subresources, "subresources": _without(subresources, itself)}


def _kubernetes(fields: Fields) -> Iterator[Sets]:
    """The scope, the verbs and the subresources of Kubernetes' own resources."""
    groups, resources = fields["apiGroups"], fields["resources"]
    subresources, namespaces = fields["subresources"], fields["namespaces"]
    verbs = fields["verbs"]
    anywhere = namespaces.among([""])
    across = verbs.among(["list", "watch", ""])
    for (group, name), resource in built_in().items():
        this = {"apiGroups": groups.among([group]), "resources": resources.among([name])}
        if not all(this.values()):
            continue
        if resource.is_namespaced:
            yield this | {"namespaces": anywhere, "verbs": _without(verbs, across)}
        elif name != "namespaces":
            yield this | {"namespaces": _without(namespaces, anywhere)}
        by_verbs: dict[frozenset[str], int] = {}
        for index, subresource in enumerate(subresources.values):
            has = _verbs_of(resource, subresources, index, subresource)
            by_verbs[has] = by_verbs.get(has, 0) | 1 << index
        for has, mask in by_verbs.items():
            yield this | {"subresources": mask, "verbs": _without(verbs, verbs.among(has))}


def _verbs_of(resource: Resource, subresources: Domain, index: int, text: str) -> frozenset[str]:
    """The verbs of the subresources of a class. Methods that mean nothing are recorded with an empty verb."""
    assert isinstance(subresources, TextDomain)
    if text in subresources.words:
        verbs = resource.verbs_of(text)
    else:
        alike = [each for each in resource.subresources if subresources.class_of(each) == index]
        verbs = frozenset[str]().union(*(resource.subresources[each] for each in alike))
    return verbs | {""} if verbs else verbs


def _namespaces_themselves(fields: Fields) -> Iterator[Sets]:
    """The name of a namespace is its namespace, too, where it is in the path and not in a selector."""
    namespaces, names, verbs = fields["namespaces"], fields["resourceNames"], fields["verbs"]
    assert isinstance(namespaces, TextDomain)
    assert isinstance(names, TextDomain)
    this = {
        "apiGroups": fields["apiGroups"].among([""]),
        "resources": fields["resources"].among(["namespaces"]),
    }
    if not all(this.values()):
        return
    of_many = verbs.among(["list", "watch"])
    yield this | {"verbs": of_many, "namespaces": _without(namespaces, namespaces.among([""]))}
    this["verbs"] = _without(verbs, of_many)
    same: dict[int, int] = {}
    for index, namespace in enumerate(namespaces.values):
        if (number := names.class_of(namespace)) is not None:
            same[number] = same.get(number, 0) | 1 << index
    for number, mask in same.items():
        yield this | {"resourceNames": 1 << number, "namespaces": _without(namespaces, mask)}


def owners_of(fields: Fields, users: Users) -> Owners:
    """How the namespaces of service accounts and of requests can be related, each with an example."""
    namespaces, relations = fields["namespaces"], fields["ownNamespace"]
    assert isinstance(namespaces, TextDomain)
    pool = _texts(namespaces, users)
    found: dict[tuple[int, int, int], tuple[str, str]] = {}
    for user, name in enumerate(users.users.values):
        own = world.account_of(name) if name else None
        if own is None:
            continue
        for of_user in [own[0]] if name in users.users.words else pool:
            account_name = account(of_user, own[1])
            if of_user != own[0] and users.class_of_account(account_name) != user:
                continue
            for namespace in pool:
                relation = (
                    "same" if namespace == of_user
                    else "prefix" if of_user.startswith(namespace) else "other"
                )  # fmt: skip
                number = namespaces.class_of(namespace)
                if number is not None:
                    key = (user, number, relations.values.index(relation))
                    found.setdefault(key, (account_name, namespace))
    return found


def _texts(namespaces: TextDomain, users: Users) -> list[str]:
    """Namespaces that stand for all others in comparisons of two of them."""
    known = dict.fromkeys(each for each in (*namespaces.values, *users.namespaces) if each)
    more = dict(known)
    for each in known:
        more[each + "x"] = None
        classes = set()
        for length in range(len(each) - 1, 0, -1):
            number = namespaces.class_of(each[:length])
            group = users.groups.class_of(f"{ACCOUNTS}:{each[:length]}")
            if (number, group) not in classes:
                classes.add((number, group))
                more[each[:length]] = None
    return list(more)


def _own_namespaces(fields: Fields, owners: Owners) -> list[Sets]:
    users, namespaces, relations = fields["users"], fields["namespaces"], fields["ownNamespace"]
    unrelated = relations.among(["other"])
    possible: dict[tuple[int, int], int] = {}
    for user, namespace, relation in owners:
        possible[user, namespace] = possible.get((user, namespace), 0) | 1 << relation
    forbidden: dict[tuple[int, int], int] = {}
    for user in range(len(users.values)):
        for namespace in range(len(namespaces.values)):
            allowed = possible.get((user, namespace), unrelated)
            key = user, _without(relations, allowed)
            forbidden[key] = forbidden.get(key, 0) | 1 << namespace
    return [
        {"users": 1 << user, "namespaces": mask, "ownNamespace": relation}
        for (user, relation), mask in forbidden.items()
    ]
