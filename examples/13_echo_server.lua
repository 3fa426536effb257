-- SPDX-License-Identifier: MIT
-- A TCP server that sends back every line, each connection in a task of its own.
--
--   lua5.4 examples/13_echo_server.lua [PORT]        then: nc 127.0.0.1 PORT
--
-- Ctrl-C ends it: nothing is accepted any more, connections have a second to finish.
-- Test: demo

local concur = require "concur"
local net = require "concur.net"

local function echo(stream)
  local host, port = stream:peer_address()
  print(("%s:%d is here"):format(host, port))
  for line in stream:lines("L") do
    stream:write("you said: ", line)
  end
  print(("%s:%d is gone"):format(host, port))
end

local function serve(port, on_listen)
  return net.serve(echo, "127.0.0.1", port, { grace = 1, limit = 1000, on_listen = on_listen })
end

local function announce(listener)
  print("listening on port " .. select(2, listener:address()))
end

-- A client, for trying it without one.
local function demo()
  concur.task_group(function(group)
    local port = group:start(function(started)
      serve(0, function(listener)
        announce(listener)
        started(select(2, listener:address()))
      end)
    end)
    local stream <close> = assert(net.connect("127.0.0.1", port))
    stream:write("hello\n", "and ", "goodbye\n")
    assert(stream:read() == "you said: hello")
    assert(stream:read() == "you said: and goodbye")
    stream:close()
    group:cancel()
  end)
end

concur.main(function()
  if arg[1] == "demo" then
    demo()
  else
    assert(serve(math.tointeger(tonumber(arg[1])) or 7777, announce))
  end
end)
