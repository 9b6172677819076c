"""A codec of any rate for tests: JPEG at the highest quality within the bits asked for."""

from gnl.experiments.baseline_files import BaselineFiles
from gnl.node_apps.codecs.interface import Codec, CodecFacts, Prompt
from gnl.node_apps.codecs.registry import load_codec
from gnl.topologies.errors import CodecError

FACTS = CodecFacts("gnl-scalable", 4, None, True, True, (), "any")


class FakeScalable(Codec):
    facts = FACTS

    def encode(self, image, bpp=None):
        if bpp is None:
            raise CodecError("gnl-scalable: a rate must be given")
        files = BaselineFiles("jpeg", image)
        inner = files.prompt(files.at_most(int(bpp * image.shape[0] * image.shape[1] / 8)))
        return Prompt(self.facts.codec_id, 0, inner.slices)

    def decode(self, prompt):
        jpeg = load_codec("jpeg:50")
        return jpeg.decode(Prompt(jpeg.facts.codec_id, 0, self.require_own(prompt)))

    def latents(self, prompts):
        return [len(prompt.slices[0]) for prompt in prompts]
