"""The remediation agent: findings come as messages; what the rules allow is done about them, bounded, with an audit."""
