-- SPDX-License-Identifier: MIT
-- What holds for every function of the network that may suspend: it looks for cancellation first,
-- though it could finish at once; it gives other tasks their turn, though it never has to wait; it
-- is refused where nothing can wait.

local concur = require "concur"
local dns = require "concur.dns"
local errors = require "concur.errors"
local expect = require "spec.support.expect"
local net = require "concur.net"
local socket = require "concur.compat.socket"
local streams = require "spec.support.streams"
local support = require "spec.support"
local testing = require "concur.testing"

local it = testing.wrap_it(it, { clock = false })

local function close(object)
  local _ <close> = object
end

-- A LuaSocket server with a client, which has many lines to read, and the other end of that.
local function luasocket_client(text)
  local server = assert(socket.bind("127.0.0.1", 0))
  local client = assert(socket.connect("127.0.0.1", (select(2, server:getsockname()))))
  local peer = assert(server:accept())
  peer:send(text)
  server:settimeout(0)
  client:settimeout(0)
  return client, server, peer
end

-- What could be done at once, each as a function; and what closes all that it takes.
local function calls()
  local text = ("x\n"):rep(5000)
  local one, other, pair = streams.tcp_pair()
  other:write(text)
  local listener = assert(net.listen("127.0.0.1", 0))
  local host, port = listener:address()
  local waiting = assert(net.connect(host, port))
  local datagrams = assert(net.udp "127.0.0.1")
  local _, udp_port = datagrams:address()
  datagrams:send_to("already there", "127.0.0.1", udp_port)
  local client, server, peer = luasocket_client(text)
  local pending, impatient = assert(socket.udp()), assert(socket.tcp())
  pending:setsockname("127.0.0.1", 0)
  pending:settimeout(0)
  impatient:settimeout(0)
  local path = support.tmpdir() .. "/socket"
  local buffer = concur.SharedBuffer(8)
  concur.sleep(0.01)
  return {
    ["read"] = function() return one:read() end,
    ["lines"] = function() return one:lines()() end,
    ["read_some"] = function() return one:read_some(1) end,
    ["read_until"] = function() return one:read_until "\n" end,
    ["read_into"] = function() return one:read_into(buffer, 1, 1) end,
    ["write"] = function() return one:write "x" end,
    ["flush"] = function() return one:flush() end,
    ["shutdown"] = function() return other:shutdown() end,
    ["accept"] = function() return listener:accept() end,
    ["connect"] = function() return net.connect(host, port) end,
    ["connect by name"] = function() return net.connect("localhost", port) end,
    ["connect by path"] = function() return net.connect { path = path } end,
    ["listen by name"] = function() return net.listen("localhost", 0) end,
    ["serve"] = function() return net.serve(print, host, 0) end,
    ["send_to"] = function() return datagrams:send_to("x", host, udp_port) end,
    ["recv_from"] = function() return datagrams:recv_from() end,
    ["select"] = function() return concur.select { datagrams:receiving() } end,
    ["udp by name"] = function() return net.udp "localhost" end,
    ["connect of datagrams"] = function() return datagrams:connect("localhost", udp_port) end,
    ["resolve"] = function() return dns.resolve("127.0.0.1", 80) end,
    ["reverse"] = function() return dns.reverse "not an address" end,
    ["wait_fd"] = function() return net.wait_fd(one:fd(), "w", 0) end,
    ["LuaSocket's connect"] = function() return impatient:connect(host, port) end,
    ["LuaSocket's receive"] = function() return client:receive() end,
    ["LuaSocket's send"] = function() return client:send "x" end,
    ["LuaSocket's accept"] = function() return server:accept() end,
    ["LuaSocket's select"] = function() return socket.select({ client }, nil, 0) end,
    ["LuaSocket's receive of datagrams"] = function() return pending:receive() end,
    ["LuaSocket's sendto"] = function() return pending:sendto("x", host, udp_port) end,
  }, expect.guard(function()
    for _, object in ipairs { pair, listener, waiting, datagrams, client, server, peer, pending,
      impatient } do
      close(object)
    end
  end)
end

-- Those that find something to do, or to refuse, again and again.
local REPEATABLE = { "read", "lines", "read_some", "read_until", "read_into", "write", "flush",
  "send_to", "resolve", "reverse", "wait_fd", "LuaSocket's receive", "LuaSocket's send",
  "LuaSocket's accept", "LuaSocket's select", "LuaSocket's receive of datagrams",
  "LuaSocket's sendto" }

describe("every function of the network that may suspend", function()
  it("looks for cancellation first, and has done nothing then", function()
    local all, _ <close> = calls()
    for name, call in pairs(all) do
      local done = false
      local left = concur.cancel_scope(function(scope)
        scope:cancel()
        call()
        done = true
      end)
      assert.same({ false, false }, { left, done }, name)
    end
    assert.equal("x", all["read"]())
    assert.equal("x", all["LuaSocket's receive"]())
    assert.equal("already there", (all["recv_from"]()))
    close(assert(all["accept"]()))
    assert.is_false((concur.move_on_after(0.005, all["accept"])))
  end)

  it("gives others their turn, though it never waits", function()
    local all, _ <close> = calls()
    for _, name in ipairs(REPEATABLE) do
      local ticks = 0
      local other = concur.spawn(function()
        while true do
          concur.checkpoint()
          ticks = ticks + 1
        end
      end)
      for _ = 1, 600 do
        all[name]()
      end
      assert.is_true(ticks >= 2, name .. ": " .. ticks)
      other:cancel()
      concur.wait { other }
    end
  end)

  it("says so where nothing can wait", function()
    local all, _ <close> = calls()
    local answers = {}
    concur.get_event_loop():call_soon(function()
      for name, call in pairs(all) do
        local ok, err = pcall(call)
        answers[name] = not ok and errors.is(err, "InvalidState") and "refused" or tostring(err)
      end
    end)
    concur.sleep(0)
    for name in pairs(all) do
      assert.equal("refused", answers[name], name)
    end
  end)
end)
