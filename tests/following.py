"""A stateful schedule, as a user would write one."""


class Following:
    """A schedule that goes where the accuracy goes."""

    def __init__(self, value=0.5):
        self.value = value

    def __call__(self, progress):
        return self.value

    def update(self, metrics):
        self.value = metrics["accuracy"]

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]
