"""What happens between a request and its reply, as one async generator of events."""
