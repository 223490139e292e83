"""The proxy's counters as Prometheus metrics, in addition to those that every filter has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import Metric

from ..service.diagnostics import Diagnostics
from ..service.metrics import AuditCollector
from ..service.policy_watch import PolicyWatch
from .proxy import Proxy


class ForwardCollector(AuditCollector):
    """Reads the counters of one proxy. Any thread may call it.

    Args:
        proxy: the running proxy.
        policy: the state of the policy.
        diagnostics: counts messages.
        labels: labels to add to every sample.
    """

    def __init__(
        self,
        proxy: Proxy,
        policy: PolicyWatch[Any],
        diagnostics: Diagnostics,
        labels: Mapping[str, str],
    ) -> None:
        super().__init__(proxy.context.filter.counters, policy, diagnostics, proxy, labels)
        self._proxy = proxy

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now."""
        yield from super().collect()
        yield from self._client_metrics()
        yield from self._upstream_metrics()

    def _client_metrics(self) -> Iterable[Metric]:
        context = self._proxy.context
        clients, strangers = len(self._proxy.clients), len(self._proxy.strangers)
        yield self._gauge("forward_client_connections", "Clients that are connected.", clients)
        yield self._gauge("forward_client_handshakes", "Clients in TLS and handshake.", strangers)
        accepted = self._proxy.accepted
        yield self._counter("forward_client_connections_opened", "Clients that have connected.", accepted)
        ends = _labelled(context.ends)
        yield self._counter(
            "forward_client_connections_cut", "Clients that were disconnected.", ends, "reason"
        )
        messages = _labelled(context.messages)
        yield self._counter("forward_messages", "Messages that came in whole.", messages, "mode")
        acks = _labelled(context.acks)
        yield self._counter("forward_acks", "Messages that wanted an acknowledgement.", acks, "result")
        repeats = context.repeats.count
        yield self._counter("forward_repeated_chunks", "Messages that had come before.", repeats)
        yield self._counter("forward_abandoned", "Messages lost at the end.", context.abandoned)
        budget = context.budget
        yield self._gauge(
            "forward_in_flight_bytes", "Bytes held for messages not delivered yet.", budget.held
        )
        yield self._gauge("forward_in_flight_limit_bytes", "The limit for these bytes.", budget.limit)
        waiting = budget.waiting
        yield self._gauge("forward_clients_waiting", "Clients not read from for want of memory.", waiting)

    def _upstream_metrics(self) -> Iterable[Metric]:
        upstreams = self._proxy.context.upstreams
        yield self._counter("forward_resent", "Messages sent again after a failure.", upstreams.resent)
        up = {(str(upstream),): int(upstream.is_up) for upstream in upstreams.all}
        yield self._gauge("forward_upstream_up", "Whether it can be connected to.", up, "upstream")
        connections = {(str(upstream),): upstream.connections for upstream in upstreams.all}
        yield self._gauge(
            "forward_upstream_connections", "Connections to it that stand.", connections, "upstream"
        )
        attempts = {
            (str(upstream), result): count
            for upstream in upstreams.all
            for result, count in upstream.attempts.copy().items()
        }
        yield self._counter(
            "forward_upstream_connects", "Attempts to connect to it.", attempts, "upstream", "result"
        )


def _labelled(counts: Mapping[str, int]) -> dict[tuple[str], int]:
    return {(label,): count for label, count in dict(counts).items()}
