"""The protocol's numbers that a client must know, and this client's own."""

from __future__ import annotations

from typing import Final

PROTO: Final = 1
PORT_DEFAULT: Final = 7440
#: The longest line in either direction, without its newline.
LINE_BYTES_MAX: Final = 1024 * 1024
#: The longest line before the welcome.
HELLO_LINE_BYTES_MAX: Final = 8 * 1024
WINDOW_MAX: Final = 10_000
WINDOW_DEFAULT: Final = 32
#: Silence for this many heartbeats closes a connection, on either side.
HEARTBEATS_MISSED_MAX: Final = 2
#: The most tags in one ``ack``.
ACK_TAGS_MAX: Final = WINDOW_MAX
#: The longest reason of a ``nack``; the broker cuts what is longer, and so do we.
REASON_BYTES_MAX: Final = 1_000
#: The most dead letters that one ``redrive`` or ``purge`` names.
DEAD_IDS_MAX: Final = 1_000
#: The longest delay, time to live or extension: a week.
DURATION_MS_MAX: Final = 7 * 24 * 3_600 * 1_000
#: For how long a lock is held at a time.
LOCK_MS_MIN: Final = 1_000
LOCK_MS_MAX: Final = 3_600_000
#: Where nobody says: what a holder that dies may delay the others by.
LOCK_SECONDS: Final = 30.0

CONNECT_WAIT_SECONDS: Final = 10.0
#: How long a sign of life is waited for at first: the first timeout of RFC 6298.
SIGN_WAIT_FIRST_SECONDS: Final = 1.0
#: After an answer: so many times as long as that took, and not less than this.
SIGN_WAIT_FACTOR: Final = 4
SIGN_WAIT_MIN_SECONDS: Final = 0.25
#: A broker that takes nothing for so long is left.
WRITE_WAIT_SECONDS: Final = 10.0
#: How long a send waits for its answer, reconnects included.
SEND_WAIT_SECONDS: Final = 30.0
#: How long closing waits for the last acks to be written.
CLOSE_WAIT_SECONDS: Final = 5.0
RECONNECT_FIRST_SECONDS: Final = 0.1
#: A broker that is back has its agents back within the 5 s in which messages are promised.
RECONNECT_MAX_SECONDS: Final = 3.0
#: Sends that wait for their answer. A send after them waits for room.
SENDS_MAX: Final = 1_024
#: The most sends, of those that were held back, that are under way at once.
RESUMED_MAX: Final = 256
#: Answers to one question that nobody took yet; those that come after them are dropped.
ANSWERS_MAX: Final = WINDOW_MAX
#: Questions that are over, whose late answers are dropped; the oldest is forgotten, and its answer is a message like any.
QUESTIONS_OVER_MAX: Final = 4_096
#: How long an answer is waited for where nobody says.
ANSWER_WAIT_SECONDS: Final = 30.0
#: An answer that nobody took by then is not delivered any more: whoever asked is gone.
ANSWER_TTL_SECONDS: Final = 3_600.0
#: An answer comes beside the window. One that nobody here waits for, while nobody takes messages, comes again after so long.
ANSWER_AGAIN_MS: Final = 1_000
#: Ids of messages that were handled and whose ack may not have arrived; the oldest is forgotten, and handled again
#: where it comes again.
HANDLED_MAX: Final = 2 * WINDOW_MAX
#: The digits of a whole number that is read, as CPython has it: reading one takes the square of its length.
DIGITS_MAX: Final = 4_300
#: How deep a value may be nested where `sys.setrecursionlimit` was raised above what a stack is trusted to hold.
NESTED_MAX: Final = 1_000
RECURSION_TRUSTED: Final = 10_000
#: The rest of a line after `LINE_BYTES_MAX` is thrown away; after so much of it the connection is.
LINE_DISCARD_MAX: Final = 64 * LINE_BYTES_MAX
#: The longest that a broker may ask to stay away, or a send to wait: what is longer is a mistake.
RETRY_SECONDS_MAX: Final = 60.0
#: Names of failures, and of messages that were not handled in the end, that a tally keeps; what is more is counted.
TALLY_KINDS_MAX: Final = 20
TALLY_IDS_MAX: Final = WINDOW_MAX
#: A stop waits so long for what was begun, where nobody says.
GRACE_SECONDS: Final = 30.0
#: And then so long for what was interrupted.
INTERRUPT_SECONDS: Final = 1.0
#: A message that nobody here handles is given back, and comes again after as long as it is old, between these.
LEFT_SECONDS_MIN: Final = 60.0
LEFT_SECONDS_MAX: Final = 3_600.0
#: The same failure is logged whole once, and then one line a minute; so many failures are told apart.
REPEAT_SECONDS: Final = 60.0
REPEATS_MAX: Final = 64
#: And so many are logged whole in a minute, whatever they are.
TRACEBACKS_MAX: Final = 10
