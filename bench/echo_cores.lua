-- SPDX-License-Identifier: MIT
-- The echo server of examples/14_all_cores_server.lua with one worker thread and with two, under the
-- same load: what a second loop on the same port (reuseport) gives.
--
--   make bench-cores [BENCH="CONNECTIONS BYTES SECONDS ROUNDS"]
--
-- The client needs a processor too: on a machine with two, client and server share them, so what is
-- shown is the processor time that the server got, beside its messages.

package.path = "bench/?.lua;" .. package.path

local peers = require "harness.peers"
local stats = require "harness.stats"

local connections, bytes = tonumber(arg[1]) or 50, tonumber(arg[2]) or 64
local seconds, rounds = tonumber(arg[3]) or 1, tonumber(arg[4]) or 5

local build = os.getenv "CONCUR_BUILD" or "build"
peers.find(build) -- compiles the client

-- Messages a second, and how many processors the server used.
local function measure(workers)
  local pipe <close> = io.popen(("%s/bench/echo_client --any %g %d %d %s "
    .. "examples/14_all_cores_server.lua PORT %d"):format(build, seconds, connections, bytes,
    peers.lua, workers))
  local wall, cpu = {}, {}
  for line in pipe:lines() do
    local first, second = line:match "^([%d.]+) ([%d.]+)$"
    wall[#wall + 1], cpu[#cpu + 1] = tonumber(first), tonumber(second)
  end
  assert(pipe:close() and #wall > 0, "the server does not start")
  return 1e9 / stats.median(wall), stats.median(cpu) / stats.median(wall)
end

local rates, shares = { {}, {} }, { {}, {} }
for round = 1, rounds do
  for workers = 1, 2 do
    rates[workers][round], shares[workers][round] = measure(workers)
  end
end
for workers = 1, 2 do
  print(("%d worker%s  %8.0f messages/s  %.2f processors busy"):format(workers,
    workers == 1 and " " or "s", stats.median(rates[workers]), stats.median(shares[workers])))
end
