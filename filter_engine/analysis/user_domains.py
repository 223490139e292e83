"""The classes of users and of groups, and which users are in which groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from filter_engine.analysis import world
from filter_engine.analysis.domains import TextDomain, TextField, filled, pattern_sets, texts_domain
from filter_engine.analysis.text_classes import Automaton, examples, filler_beside, other_examples
from filter_engine.analysis.world import ACCOUNT_PREFIX, ACCOUNTS, Kind, account
from filter_engine.patterns import Texts

_USERS = (
    "alice", "bob", "carol@example.com", "system:kube-scheduler", "system:apiserver", "system:node:node-1",
    "system:bootstrap:abcdef",
)  # fmt: skip
_GROUPS = ("developers", "guests", "oidc:developers", "system:monitoring", "system:bootstrappers:ci")
_NAMESPACES = ("default", "team-a", "kube-system")
_ACCOUNTS = ("default", "app", "builder")
_LABELS = {
    Kind.NODE: "any other node",
    Kind.BOOTSTRAP: "any other bootstrap token",
    Kind.SYSTEM: "any other system: user",
    Kind.PERSON: "any other user",
}


@dataclass
class Users:
    """The classes of users and groups.

    Attributes:
        users: the classes of users; that of requests without a user is None.
        groups: the classes of groups.
        certain: for each class of users, the groups that they have for certain.
        possible: the groups that they may have.
        namespaces: for each class of users, the namespace of its service account; empty for others.
        own_words: namespaces whose service accounts are classes of their own.
    """

    users: TextDomain
    groups: TextDomain
    certain: list[int] = field(default_factory=list)
    possible: list[int] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    own_words: frozenset[str] = frozenset()

    def class_of_account(self, user: str) -> int | None:
        """The class of a service account; None if there is none."""
        own = world.account_of(user)
        namespace = own[0] if own else ""
        group = self.groups.class_of(f"{ACCOUNTS}:{namespace}")
        return self.users.class_of(user, (group, namespace if namespace in self.own_words else None))


def users_and_groups(
    names: Collection[Texts],
    groups: Collection[Texts],
    namespaces: Collection[Texts],
    own_words: Collection[str],
) -> Users:
    """The classes that conditions on users and groups can tell apart.

    Args:
        names: what ``users`` compares names with.
        groups: what ``userGroups`` compares groups with.
        namespaces: what ``namespaces`` compares namespaces with, if the namespace of a service account
            matters too (``ownNamespace``).
        own_words: namespaces that are to be classes of service accounts of their own.

    Raises:
        TooManyClassesError: there are too many.
    """
    users = TextDomain("users", sets=pattern_sets(names, world.USER_PATTERNS))
    found = Users(users, _groups(groups), own_words=frozenset(own_words))
    words = dict.fromkeys(filter(world.is_user, (word for texts in names for word in texts.words)))
    known = {world.ANONYMOUS, *words}
    others = other_examples(users.sets, known, forbidden="*")
    nice = (*_USERS, *filled(users.sets, "*"))
    nicer = {users.signature(each): each for each in reversed(nice) if each not in known}
    # Names that begin as those of service accounts are found below.
    others = [
        nicer.get(users.signature(each), each) for each in others if not each.startswith(ACCOUNT_PREFIX)
    ]
    for example in sorted(others, key=lambda each: world.kind_of(each) is not Kind.PERSON):
        kind = world.kind_of(example)
        users.add_other(example, _LABELS[kind], odd=kind is not Kind.PERSON)
    for word in words:
        users.add_word(word)
    users.add_word(world.ANONYMOUS)
    users.add_word(None, "no user")
    for example, label in _accounts(found, words, namespaces, own_words):
        own = world.account_of(example)
        namespace = own[0] if own else ""
        more = namespace if namespace in own_words else None
        users.add_other(example, label, (_group_class(found.groups, f"{ACCOUNTS}:{namespace}"), more))
    for user in users.values:
        certain = _certain(user, found.groups)
        possible = found.groups.where(lambda group, user=user: world.may_have(user, group))  # type: ignore[misc]
        found.certain.append(certain)
        found.possible.append(certain | possible)
        own = None if user is None else world.account_of(user)
        found.namespaces.append(own[0] if own else "")
    return found


def _groups(used: Collection[Texts]) -> TextDomain:
    groups = TextField(
        "userGroups",
        "any other group",
        _GROUPS,
        forbidden="*",
        patterns=world.GROUP_PATTERNS,
        # The groups of the service accounts of a namespace come with these.
        without=(ACCOUNTS + ":",),
    )
    return texts_domain(groups, [*used, Texts(world.GROUPS)])


def _group_class(groups: TextDomain, group: str) -> int:
    """The class of the group of all service accounts of a namespace, which is added if it is new."""
    number = groups.class_of(group)
    if number is None:
        groups.add_other(group, "any other group of service accounts")
        number = len(groups.values) - 1
    return number


def _certain(user: str | None, groups: TextDomain) -> int:
    found = 0
    for group in world.groups_of(user):
        number = groups.class_of(group)
        if number is not None:
            found |= 1 << number
    return found


def _accounts(
    found: Users,
    words: Collection[str],
    namespaces: Collection[Texts],
    own_words: Collection[str],
) -> Iterator[tuple[str, str]]:
    """An example of each class of service accounts that are not named, and its label."""
    named = dict.fromkeys(own_words)
    for word in (*found.groups.words, *words):
        if word and word.startswith(ACCOUNTS + ":"):
            named[word.removeprefix(ACCOUNTS + ":")] = None
        elif word and (own := world.account_of(word)):
            named[own[0]] = None
    named = {each: None for each in named if each and not set("*/:") & set(each)}
    others = _other_namespaces(found, named, namespaces)
    for namespace, label in (
        *((each, "any other service account") for each in others),
        *((each, f"any other service account in {each}") for each in named),
    ):
        start = f"{ACCOUNT_PREFIX}{namespace}:"
        nicer = {
            found.users.signature(each): each
            for each in (account(namespace, name) for name in reversed(_ACCOUNTS))
            if each not in words
        }
        for example in other_examples(found.users.sets, (*words, start), starts=start, forbidden="*/:"):
            yield nicer.get(found.users.signature(example), example), label


def _other_namespaces(found: Users, named: Collection[str], namespaces: Collection[Texts]) -> list[str]:
    """An example of each class of namespaces that are not named, as patterns of users, groups and
    namespaces tell them apart in the names and groups of their service accounts.
    """
    of_users, of_groups = Automaton(found.users.sets), Automaton(found.groups.sets)
    of_names = Automaton(pattern_sets(namespaces))
    beginnings = {name[:length] for name in named for length in range(len(name) + 1)}
    letters = of_users.letters | of_groups.letters | of_names.letters | set(":*/")
    filler = filler_beside(letters)

    def step(state: Any, letter: str) -> Any:
        user, group, name, text = state
        if letter in ":*/":
            return None
        longer = text + letter if text is not None else None
        return (
            of_users.step(user, letter),
            of_groups.step(group, letter),
            of_names.step(name, letter),
            longer if longer in beginnings else None,
        )

    def letters_at(state: Any) -> Sequence[str]:
        user, group, name, text = state
        tried = of_users.letters_at(user) | of_groups.letters_at(group) | of_names.letters_at(name)
        if text is not None:
            tried |= {each[len(text)] for each in beginnings if len(each) == len(text) + 1}
        return [filler, *sorted(tried)]

    def class_of(state: Any) -> Any:
        user, group, name, text = state
        if text == "" or text in named:
            return None
        return user, of_groups.matched(group), of_names.matched(name)

    start = (of_users.run(ACCOUNT_PREFIX), of_groups.run(ACCOUNTS + ":"), of_names.start, "")
    classes = examples(start, step, letters_at, class_of)
    for nice in reversed([each for each in _NAMESPACES if each not in named]):
        state = start
        for letter in nice:
            state = step(state, letter)
        classes[class_of(state)] = nice
    return list(classes.values())
