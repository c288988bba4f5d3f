"""The reporting agent: alerts and a daily summary to a webhook, by e-mail, into a file; none is lost without a word."""
