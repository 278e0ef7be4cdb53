"""Which services run here, with which settings, wired how."""
