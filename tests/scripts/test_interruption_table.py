"""The table of the benchmark of interruptions is all that it writes to the standard output."""

import logging
import sys

from benchmarks.interruptions import stdout_to_stderr


def test_what_a_logger_prints_that_holds_the_stream_is_no_part_of_the_table(capfd, monkeypatch):
    # that of pytest does not write to the standard output itself
    stream = open(1, "w", closefd=False)  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", stream)
    logger = logging.Logger("early")
    logger.addHandler(logging.StreamHandler(stream))
    print("| head |")
    with stdout_to_stderr():
        logger.warning("log")
        print("of the training")
    print("| row |")
    stream.flush()
    assert capfd.readouterr() == ("| head |\n| row |\n", "log\nof the training\n")
