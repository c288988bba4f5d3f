//! Messages that no trigger saw, that are set back, readdressed, or ended by a poller in words of its own.
