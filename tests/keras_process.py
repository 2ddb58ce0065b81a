"""Sides of Keras in one process: importing TensorFlow takes longer than what they do."""

from rnnx.compare import keras_side


def run(calls):
    """Return the results of sides, given by name and request."""
    return [getattr(keras_side, name).run(request) for name, request in calls]
