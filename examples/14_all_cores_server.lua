-- SPDX-License-Identifier: MIT
-- A TCP server on all cores: one worker thread for each, with a Lua state and a loop of its own, and
-- all of them listen on the same port (reuseport). The system spreads the connections.
--
--   lua5.4 examples/14_all_cores_server.lua [PORT [WORKERS [SUMS]]]
--
-- SUMS gives the cores something to do: so often the bytes of a message are added up before it goes
-- back.
--
-- Test: demo

local concur = require "concur"
local net = require "concur.net"

-- Runs in a worker until its job is cancelled. `ready` gets the port once it listens.
local function worker(port, ready, sums)
  local function add_up(bytes)
    local sum = 0
    for i = 1, #bytes do
      sum = sum + bytes:byte(i)
    end
    return sum
  end
  local function echo(stream)
    while true do
      local bytes = stream:read_some()
      if not bytes then
        return
      end
      for _ = 1, sums do
        add_up(bytes)
      end
      stream:write(bytes)
    end
  end
  return net.serve(echo, "127.0.0.1", port, {
    reuseport = true,
    grace = 1,
    on_listen = function(listener)
      ready:send(select(2, listener:address()))
    end,
  })
end

-- Starts the workers; returns the port and what stops them.
local function start(port, workers, sums)
  local pool = concur.ThreadPoolExecutor(workers)
  local ready = concur.Channel(workers)
  local jobs = {}
  for i = 1, workers do
    jobs[i] = pool:submit(worker, port, ready, sums)
    port = ready:recv() -- the first one chooses, if it may
  end
  return port, function()
    for _, job in ipairs(jobs) do
      job:cancel()
    end
    concur.wait(jobs)
    pool:shutdown()
  end
end

local function demo()
  local port, stop = start(0, 2, 1)
  concur.task_group(function(group)
    for i = 1, 20 do
      group:spawn(function()
        local stream <close> = assert(net.connect("127.0.0.1", port))
        stream:write("client ", i, "\n")
        assert(stream:read() == "client " .. i)
      end)
    end
  end)
  stop()
  print "20 clients were served by 2 threads"
end

concur.main(function()
  if arg[1] == "demo" then
    return demo()
  end
  local port = math.tointeger(tonumber(arg[1])) or 7777
  local workers = math.tointeger(tonumber(arg[2])) or concur.cpu_count()
  local sums = math.tointeger(tonumber(arg[3])) or 0
  local stop
  port, stop = start(port, workers, sums)
  print(("%d workers listen on port %d"):format(workers, port))
  io.stdout:flush()
  local _ <close> = setmetatable({}, { __close = function()
    concur.shield(stop)
  end })
  concur.sleep_forever()
end)
