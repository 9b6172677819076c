"""The folders at the top install under one import name: gnl.topologies, gnl.node_apps, ..."""

from setuptools import setup

NODE_APPS = ("node_apps", "node_apps.protocol", "node_apps.codecs", "node_apps.prediction")
ROOMS = ("topologies", *NODE_APPS, "controller", "experiments")

setup(
    packages=[f"gnl.{room}" for room in ROOMS],
    package_dir={f"gnl.{room}": room.replace(".", "/") for room in ROOMS},
    package_data={
        "gnl.node_apps.codecs": ["weights/*.safetensors", "weights/*.json", "training_configs/*.yaml"],
        "gnl.experiments": ["templates/*", "sample_images/*"],
    },
)
