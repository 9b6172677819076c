"""One family of errors: every child ends the command line with the status that the issue of it deserves."""

import pytest
from gnl.node_apps.protocol.header import MalformedPacket
from gnl.topologies import errors

STATUS = {
    errors.GnlError: 1,
    errors.UsageError: 2,
    errors.ScenarioError: 2,
    errors.CodecError: 2,
    errors.MachineError: 1,
    errors.BitstreamError: 1,
    errors.RunError: 1,
    MalformedPacket: 1,
}


@pytest.mark.parametrize("error", STATUS, ids=lambda error: error.__name__)
def test_exit_status(error):
    assert issubclass(error, errors.GnlError) and error.exit_status == STATUS[error]


def test_every_error_of_the_family_is_known_here():
    family = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert family == set(STATUS) - {MalformedPacket}


def test_network_bytes_are_told_from_the_callers_mistakes():
    assert not issubclass(errors.BitstreamError, errors.UsageError)
    assert issubclass(MalformedPacket, errors.BitstreamError)
