-- SPDX-License-Identifier: MIT
-- The echo server of examples/14_all_cores_server.lua with one worker thread and with two, under the
-- same load: what a second loop on the same port (reuseport) gives. Once as it is, and once with work
-- to do on each message, in Lua.
--
--   make bench-cores [BENCH="CONNECTIONS BYTES SECONDS ROUNDS"]
--
-- The client needs a processor too: on a machine with two, client and server share them. So what is
-- shown is the processor time that the server got, beside its messages; and with work to do the client
-- is next to nothing. Writes cores.md into the build directory.

package.path = "bench/?.lua;" .. package.path

local peers = require "harness.peers"
local stats = require "harness.stats"
local system = require "harness.system"

local connections, bytes = tonumber(arg[1]) or 50, tonumber(arg[2]) or 64
local seconds, rounds = tonumber(arg[3]) or 1, tonumber(arg[4]) or 5

local build = os.getenv "CONCUR_BUILD" or "build"
peers.find(build) -- compiles the client

-- What they are called, and how often the server adds up the bytes of each message.
local SERVERS = {
  { title = ("echo of %d bytes"):format(bytes), sums = 0 },
  { title = "the same, each summed up 20 times first", sums = 20 },
}

-- Messages a second, and how many processors the server used.
local function measure(workers, sums)
  local pipe <close> = io.popen(("timeout 120 %s/bench/echo_client --any %g %d %d %s "
    .. "examples/14_all_cores_server.lua PORT %d %d"):format(build, seconds, connections, bytes,
    peers.lua, workers, sums))
  local wall, cpu = {}, {}
  for line in pipe:lines() do
    local first, second = line:match "^([%d.]+) ([%d.]+)$"
    wall[#wall + 1], cpu[#cpu + 1] = tonumber(first), tonumber(second)
  end
  assert(pipe:close() and #wall > 0, "the server does not start")
  return 1e9 / stats.median(wall), stats.median(cpu) / stats.median(wall)
end

local lines = {
  "| server | 1 worker | 2 workers | times as many | processors it got |",
  "| --- | --: | --: | --: | --: |",
}
for _, server in ipairs(SERVERS) do
  local rates, shares = { {}, {} }, { {}, {} }
  for round = 1, rounds do
    for workers = 1, 2 do
      rates[workers][round], shares[workers][round] = measure(workers, server.sums)
    end
  end
  local gain = stats.ratio(rates[2], rates[1])
  print(server.title)
  for workers = 1, 2 do
    print(("  %d worker%s  %8.0f messages/s  %.2f processors busy"):format(workers,
      workers == 1 and " " or "s", stats.median(rates[workers]), stats.median(shares[workers])))
  end
  print(("  %.2f (%.2f to %.2f) times as many"):format(gain.median, gain.min, gain.max))
  lines[#lines + 1] = ("| %s | %.0f /s | %.0f /s | %.2f (%.2f to %.2f) | %.2f, then %.2f |"):format(
    server.title, stats.median(rates[1]), stats.median(rates[2]), gain.median, gain.min, gain.max,
    stats.median(shares[1]), stats.median(shares[2]))
end
system.write_file(build .. "/cores.md", table.concat(lines, "\n") .. "\n")
