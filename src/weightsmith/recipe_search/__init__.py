"""The parameters of a merge searched for, with evidence; and what each model's layers are worth."""
