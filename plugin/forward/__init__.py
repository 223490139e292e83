"""The forward proxy: filters between a client and a server of the Fluent forward protocol.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.5

A message's way: ``session`` reads it from a client, ``protocol.message`` finds its parts,
``protocol.message_filter`` takes out what the policy drops, ``route`` sees to it that a server gets
the rest, and only then the session acknowledges it.
"""
