"""Methods that use another one, the rule: before it, after it, or around it."""
