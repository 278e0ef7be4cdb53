"""The distributed family: the same ports over engines that several processes and hosts share."""
