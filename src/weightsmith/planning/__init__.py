"""A recipe resolved against its models into a plan. No weight is read here."""
