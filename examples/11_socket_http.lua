-- SPDX-License-Identifier: MIT
-- LuaSocket's own http, which knows nothing of concur: its blocking calls run on worker threads and
-- suspend the task, while the loop keeps ticking. The server is LuaSocket too, on another thread.

local concur = require "concur"

-- Runs in a worker: answers `count` requests, each after a tenth of a second.
local function serve(ports, count)
  local socket = require "socket"
  local server = assert(socket.bind("127.0.0.1", 0))
  server:settimeout(10)
  ports:send(select(2, server:getsockname()))
  for _ = 1, count do
    local client = assert(server:accept())
    client:settimeout(10)
    local request = client:receive()
    repeat
      local line = client:receive()
    until not line or line == ""
    socket.sleep(0.1)
    local body = "you asked for " .. request:match "^GET (%S+)"
    client:send("HTTP/1.0 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
    client:close()
  end
  server:close()
end

concur.run(function()
  local http = concur.module "socket.http"
  local pool <close> = concur.ThreadPoolExecutor(1)
  local ports = concur.Channel(1)
  local server = pool:submit(serve, ports, 3)
  local url = ("http://127.0.0.1:%d/"):format(tonumber(ports:recv()))

  local ticks = 0
  local ticker = concur.spawn(function()
    while true do
      concur.sleep(0.01)
      ticks = ticks + 1
    end
  end)

  local pages = concur.gather {
    function() return (http.request(url .. "a")) end,
    function() return (http.request(url .. "b")) end,
    function() return (http.request(url .. "c")) end,
  }
  server:result()
  ticker:cancel()

  for i, name in ipairs { "a", "b", "c" } do
    print(pages[i])
    assert(pages[i] == "you asked for /" .. name)
  end
  print("the loop ticked meanwhile: " .. (ticks >= 5 and "yes" or "no"))
  assert(ticks >= 5, ticks)
end)
