-- The load, for wrk. Requests are made before the run as text; here they are only drawn.
--
-- BENCH_HEADS, BENCH_BODIES  files, one a line: each request is one head and one body, both drawn at
--                            random with a fixed seed. All bodies are equally long. With
--                            BENCH_WALK_FROM=n the pairs are taken in turn instead, from the nth.
-- BENCH_ONCE                 a file, one whole request a line, each sent once and in order. When they
--                            are used up the run stops and says so.
-- In the files a line break of a request is written as \n for CRLF.

local function lines(name)
  local found = {}
  for line in io.lines(os.getenv(name)) do
    found[#found + 1] = line:gsub("\\n", "\r\n")
  end
  return found
end

local once, heads, bodies
local walk_from = tonumber(os.getenv("BENCH_WALK_FROM"))
local sent = 0
is_exhausted = 0 -- global: `done` reads it from the thread

function init()
  math.randomseed(20260728)
  if os.getenv("BENCH_ONCE") then
    once = lines("BENCH_ONCE")
  else
    heads, bodies = lines("BENCH_HEADS"), lines("BENCH_BODIES")
  end
end

function setup(thread)
  measured = thread -- there is one
end

function request()
  sent = sent + 1
  if once then
    if sent > #once then
      is_exhausted = 1
      wrk.thread:stop()
      return once[#once]
    end
    return once[sent]
  end
  if walk_from then
    local n = walk_from + sent - 1
    return heads[math.floor(n / #bodies) % #heads + 1] .. bodies[n % #bodies + 1]
  end
  return heads[math.random(#heads)] .. bodies[math.random(#bodies)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"microseconds":%d,"p50":%.1f,"p99":%.1f,"socket_errors":%d,"not_2xx":%d,"exhausted":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status,
    measured:get("is_exhausted")))
end
