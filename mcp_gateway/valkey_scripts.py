"""What is done in Valkey, each in one atomic script, and the mark of a memory.

`OPEN` finds or makes the memory of one Gateway; `USE` uses one proof. A memory is a key, the mark:
`RUN.ID.BLIND`, the run of the server that holds it, its own random name, and up to which `iat`
proofs may have been used before it began. It is lost, and everything is refused until a new one
has begun, when

- the mark is not there or another one (FLUSHALL, an empty server, another server);
- the server is another run than the one named in the mark: restarted, restored from a file, or a
  replica that took over. Whatever it has kept, it may have lost the last proofs.

A server that may evict keys holds no memory. The server's clock alone says which proofs are
remembered, and a proof is accepted only while that clock says it is, so workers whose clocks
disagree cannot disagree about a proof. INFO in a script costs 4 µs.
"""

from dataclasses import dataclass
from typing import Final, Self

from token_exchange.proof_of_possession import MAXIMUM_PROOF_AGE_SECONDS, PROOF_LEEWAY_SECONDS

CLOCK_SKEW_SECONDS: Final = 1  # between a worker's clock and the server's
AHEAD_SECONDS: Final = PROOF_LEEWAY_SECONDS + CLOCK_SKEW_SECONDS
AGE_SECONDS: Final = MAXIMUM_PROOF_AGE_SECONDS + CLOCK_SKEW_SECONDS

FIRST: Final = b"first"
USED: Final = b"used"
BLIND: Final = b"blind"  # it may have been used before this memory began
CLOCK: Final = b"clock"  # by the server's clock it is too old or from the future
LOST: Final = b"lost"  # the memory is not the one the worker knows
EVICTS: Final = b"evicts"

# KEYS: the mark. ARGV: a new name, an `iat` up to which proofs may have been used elsewhere.
OPEN: Final = f"""
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local memory = redis.call('INFO', 'memory')
if string.match(memory, 'maxmemory_policy:(%S+)') ~= 'noeviction' and
    string.match(memory, 'maxmemory:(%d+)') ~= '0' then
  return '{EVICTS.decode()}'
end
local mark = redis.call('GET', KEYS[1])
if mark then
  local of, blind = string.match(mark, '^(%x+)%.[^.]+%.(%d+)$')
  if of == run and tonumber(blind) >= tonumber(ARGV[2]) then
    return mark
  end
end
local now = tonumber(redis.call('TIME')[1])
local blind = math.max(now + {AHEAD_SECONDS}, tonumber(ARGV[2]))
mark = run .. '.' .. ARGV[1] .. '.' .. string.format('%d', blind)
redis.call('SET', KEYS[1], mark)
return mark
"""

# KEYS: the mark, the proof. ARGV: the mark the worker knows, the proof's `iat`.
USE: Final = f"""
local mark = redis.call('GET', KEYS[1])
if mark ~= ARGV[1] then
  return '{LOST.decode()}'
end
local of, blind = string.match(mark, '^(%x+)%.[^.]+%.(%d+)$')
if of ~= string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') then
  return '{LOST.decode()}'
end
local issued = tonumber(ARGV[2])
if issued <= tonumber(blind) then
  return '{BLIND.decode()}'
end
local now = tonumber(redis.call('TIME')[1])
if issued > now + {AHEAD_SECONDS} or issued + {AGE_SECONDS} < now then
  return '{CLOCK.decode()}'
end
local expiry = string.format('%d', (issued + {AGE_SECONDS + 1}) * 1000)
if redis.call('SET', KEYS[2], '', 'NX', 'PXAT', expiry) then
  return '{FIRST.decode()}'
end
return '{USED.decode()}'
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A memory: `text` as it lies in the server; proofs issued up to `blind_until` are refused."""

    text: bytes
    name: str
    blind_until: int

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The mark that `OPEN` answered.

        Raises:
            ValueError: it is none.
        """
        _, name, blind_until = text.decode("ascii").split(".")
        return cls(text, name, int(blind_until))
