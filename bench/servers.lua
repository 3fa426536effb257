-- SPDX-License-Identifier: MIT
-- Load for the example servers: `make stress-servers` (BENCH="--seconds 10 --connections 200").
--
-- Each server runs in a process of its own; wrk asks the HTTP server for a small page over open
-- connections, redis-benchmark sends SET and GET to the one that speaks Redis and, for comparison, to a
-- real one. Fails when a program reports an error.

package.path = "./?.lua;" .. package.path

local servers = require "spec.support.servers"

local seconds, connections = 5, 100
for i, word in ipairs(arg) do
  seconds = word == "--seconds" and tonumber(arg[i + 1]) or seconds
  connections = word == "--connections" and tonumber(arg[i + 1]) or connections
end

local failed = false

-- Runs a program and returns what it printed.
local function run(...)
  local pipe = assert(io.popen(table.concat({ ... }, " ") .. " 2>&1"))
  local text = pipe:read "a"
  if not pipe:close() then
    print(text)
    failed = true
  end
  return text
end

local function http()
  local server <close> = servers.example "examples/15_http_server.lua"
  local text = run("wrk", "-t1", "-c", connections, "-d", seconds .. "s", "--latency",
    ("http://127.0.0.1:%d/"):format(server.port))
  local rate = text:match "Requests/sec:%s+([%d.]+)"
  local late = text:match "99%%%s+(%S+)"
  print(("HTTP, %d connections: %s requests a second, 99%% within %s"):format(connections,
    rate or "?", late or "?"))
  if not rate or text:find "Socket errors" or text:find "Non%-2xx" then
    print(text)
    failed = true
  end
end

local function redis(name, server, pipeline)
  local text = run("redis-benchmark", "-p", server.port, "-t", "set,get", "-n", 100000, "-c",
    math.min(connections, 50), "-P", pipeline, "-q")
  for command, rate in text:gmatch "([SG]ET): ([%d.]+) requests per second" do
    print(("%s, %2d at a time: %s %s a second"):format(name, pipeline, rate, command))
  end
  if not text:find "requests per second" then
    print(text)
    failed = true
  end
end

http()
for _, pipeline in ipairs { 1, 16 } do
  do
    local server <close> = servers.example "examples/16_redis_server.lua"
    redis("RESP example", server, pipeline)
  end
  local server <close> = servers.redis()
  redis("real Redis  ", server, pipeline)
end
os.exit(not failed)
