"""The forward proxy: filters between a client and a server of the Fluent forward protocol.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.5

The way of a message: ``session`` reads it from a client, ``protocol.message`` finds its parts,
``protocol.message_filter`` removes the records that the policy drops, ``route`` delivers the rest to a
server, and only then the session acknowledges the message.
"""
