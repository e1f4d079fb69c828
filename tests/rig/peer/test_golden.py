"""Every golden vector is read and written back to the same bytes: `python3 test_golden.py [v1.txt]`."""

import sys
import unittest
from pathlib import Path

import reloop_wire as wire

VECTORS = Path(__file__).resolve().parents[3] / "protocol/tests/golden/v1.txt"
# What stands in the file beside frames: signed bytes and a digest, made from the vectors `hello` and `desired_state`.
MADE = {"signed", "digest"}


class Golden(unittest.TestCase):
    def setUp(self) -> None:
        lines = VECTORS.read_text().splitlines()
        self.vectors = {name: bytes.fromhex(text) for name, text in (line.split() for line in lines if line)}

    def frames(self):
        return {name: data for name, data in self.vectors.items() if name not in MADE}

    def test_every_message_has_a_vector_that_becomes_the_same_bytes_again(self) -> None:
        kinds = set()
        for name, data in self.frames().items():
            with self.subTest(name):
                frame = wire.decode(data)
                self.assertEqual(frame.session, 9)
                self.assertEqual(wire.encode(frame).hex(), data.hex())
                kinds.add(type(frame.message))
        self.assertEqual(kinds, set(wire.get_args(wire.Message)))

    def test_what_is_kept_as_json_comes_back_the_same(self) -> None:
        for name, data in self.frames().items():
            with self.subTest(name):
                kept = wire.codec(wire.Frame)
                self.assertEqual(wire.encode(kept.parse(kept.plain(wire.decode(data)))).hex(), data.hex())

    def test_signed_bytes_and_digest_are_those_of_the_vectors(self) -> None:
        nonce = wire.decode(self.vectors["challenge"]).message.nonce
        hello = wire.decode(self.vectors["hello"]).message
        self.assertEqual(wire.signed_bytes(nonce, hello).hex(), self.vectors["signed"].hex())
        desired_state = wire.decode(self.vectors["desired_state"]).message
        self.assertEqual(wire.digest(desired_state.spec), self.vectors["digest"])
        self.assertEqual(desired_state.digest, self.vectors["digest"])

    def test_what_is_cut_short_or_too_long_is_malformed(self) -> None:
        for name, data in self.frames().items():
            for wrong in [data[:cut] for cut in range(len(data))] + [data + b"\0"]:
                with self.subTest(name, wrong=wrong.hex()), self.assertRaises(wire.Malformed):
                    wire.decode(wrong)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[-1].startswith("-"):
        VECTORS = Path(sys.argv.pop())
    unittest.main()
