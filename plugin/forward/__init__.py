"""The forward proxy: filters between a client and a server of the Fluent forward protocol.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.5

A message's way: :mod:`~plugin.forward.session` reads it from a client, :mod:`~plugin.forward.message`
finds its parts, :mod:`~plugin.forward.message_filter` takes out what the policy drops,
:mod:`~plugin.forward.route` sees to it that a server gets the rest, and only then the session
acknowledges it.
"""
