"""The session boundary: five components between tokens, sessions and sockets."""
