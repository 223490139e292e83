"""The Fluent forward protocol: bytes in, bytes out. No sockets, no clock.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.5
"""
