-- SPDX-License-Identifier: MIT
-- Calls that fail below the network: memory, descriptors, handles of libuv, interrupted system calls,
-- under listeners, connections, datagrams, waits for descriptors, lookups and LuaSocket's objects.
-- How it works: spec/support/faults.lua; memory of the Lua state: spec/oom_network_spec.lua.

local faults = require "spec.support.faults"

local ERRORS = { "not enough memory", "ENOMEM", "EMFILE", "EAGAIN", "could be started",
  "out of memory", "Cannot allocate memory", "Too many open files" }
local SOCKETS = { "memory", "descriptors", "handles", "interrupted", "in_vain" }
local NONE = { "there is no such error" }

-- What calls that are made again say, and how often in a row.
local HARMLESS = {
  interrupted = { errno = 4, times = { "1", "7" } },
  in_vain = { errno = 11, times = { "1", "7" } },
  no_room = { errno = 105, times = { "1", "7" } },
}

---Runs a scenario with the calls of each kind failing in turn. `more`: errors that are allowed too;
---`options`: as for faults.frame.
local function scenario(name, kinds, body, more, options)
  for _, kind in ipairs(kinds) do
    it(("%s (%s)"):format(name, kind), function()
      local allowed = HARMLESS[kind] and NONE or { table.unpack(ERRORS) }
      if more and allowed ~= NONE then
        allowed[#allowed + 1] = more
      end
      local code = faults.frame('local net = require "concur.net"\n' .. body,
        options or { real = true })
      faults.fail_cleanly(code, faults[kind], allowed, HARMLESS[kind])
    end)
  end
end

describe("calls that fail in", function()
  scenario("datagrams", { "descriptors", "handles", "interrupted", "in_vain" }, [[
    concur.run(function()
      local one <close> = assert(net.udp("127.0.0.1", 0, { broadcast = true }))
      local two <close> = assert(net.udp())
      local _, port = one:address()
      local receiver = concur.spawn(one.recv_from, one)
      concur.sleep(0)
      assert(two:send_to("hello", "127.0.0.1", port))
      assert(assert(receiver:result()) == "hello")
      assert(two:connect("127.0.0.1", port))
      assert(two:send "again")
      local key, data, err = concur.select { data = one:receiving(), late = concur.after(5) }
      if key == "data" and not data then error(err, 0) end
      assert(key == "data" and data == "again", "a datagram is lost")
      assert(#assert(one:send_to(("x"):rep(9000), two:address()) and two:recv_from()) == 9000)
    end)
  ]])

  scenario("waits for descriptors", { "memory", "descriptors", "handles", "interrupted" }, [[
    concur.run(function()
      local one <close> = assert(net.udp("127.0.0.1", 0))
      local _, port = one:address()
      local waiter = concur.spawn(net.wait_fd, one:fd(), "r", 10)
      local other = concur.spawn(net.wait_fd, { getfd = function() return one:fd() end }, "rw", 10)
      concur.sleep(0)
      assert(assert(other:result()):find "w")
      assert(one:send_to("x", "127.0.0.1", port))
      assert(assert(waiter:result()) == "r")
      assert(one:recv_from())
      local ok, err, cause = pcall(net.wait_fd, one:fd(), "r", 0.001)
      if ok then error(cause, 0) end
      if not errors.is(err, "TimeoutError") then error(err, 0) end
    end)
  ]])

  scenario("lookups", { "memory", "threads", "primitives" }, [[
    local dns = require "concur.dns"
    concur.run(function()
      local one, two = concur.gather(
        function() return assert(dns.resolve("127.0.0.1", "http")) end,
        function() return assert(dns.reverse "127.0.0.1") end)
      assert(one[1].port == 80 and type(two) == "string")
      assert(dns.resolve("localhost", 80)[1].address == "127.0.0.1")
      concur.move_on_after(0, dns.resolve, "127.0.0.1", "http")
    end)
  ]], nil, { real = true, cold = true })

  scenario("a connection by name", SOCKETS, [[
    concur.run(function()
      local listener <close> = assert(net.listen("127.0.0.1", 0))
      local _, port = listener:address()
      local client = concur.spawn(function() return assert(net.connect("localhost", port)) end)
      client:add_done_callback(function() -- nobody is left to accept from
        if client:state() == "failed" then listener:close() end
      end)
      local accepted, err = listener:accept()
      local stream <close> = client:result()
      local served <close> = assert(accepted, err)
      assert(stream:peer_address() == "127.0.0.1")
      assert(served:write "hello\n")
      assert(assert(stream:read()) == "hello")
    end)
  ]], "ECONNREFUSED") -- from the other address, when this one could not even be tried

  scenario("sending where there is no room", { "no_room" }, [[
    concur.run(function()
      local listener <close> = assert(net.listen("127.0.0.1", 0))
      local client <close> = assert(net.connect(listener:address()))
      local served <close> = assert(listener:accept())
      local reader = concur.spawn(served.read, served, "a")
      assert(client:write "one ")
      assert(client:write("two ", "three "))
      assert(client:flush())
      assert(client:write("x", ("y"):rep(100000)))
      assert(client:shutdown())
      assert(assert(reader:result()) == "one two three x" .. ("y"):rep(100000))
    end)
  ]])

  scenario("Unix sockets and descriptors", SOCKETS, [[
    concur.run(function()
      local path = os.tmpname()
      os.remove(path)
      local _ <close> = setmetatable({}, { __close = function() os.remove(path) end })
      local first <close> = assert(net.listen { path = path })
      local client <close> = assert(net.connect { path = path })
      local served <close> = assert(first:accept())
      assert(client:write("from afar\n"))
      assert(client:shutdown())
      assert(assert(served:read "a") == "from afar\n")
      local one, other = net.socketpair()
      local _ <close> = assert(one, other)
      local _ <close> = other
      local listening <close> = assert(net.listen("127.0.0.1", 0))
      local fd = assert(listening:detach())
      local again <close>, err = net.listen_fd(fd)
      if not again then -- the descriptor is still ours
        disarm()
        assert(net.listen_fd(fd)):close()
        error(err, 0)
      end
      local _, port = again:address()
      local third <close> = assert(net.connect("127.0.0.1", port))
      assert(again:accept()):close()
    end)
  ]])

  scenario("a server with a limit", SOCKETS, [[
    concur.run(function()
      local listener <close> = assert(net.listen("127.0.0.1", 0))
      local _, port = listener:address()
      local failure
      local server = concur.spawn(net.serve, function(stream)
        local line, err = stream:read "L"
        if err then error(err, 0) end
        if line then assert(stream:write(line)) end -- else the client was refused something
      end, listener, { limit = 2, grace = 0, on_error = function(err)
        failure = failure or err
      end })
      local clients = {}
      for i = 1, 4 do
        clients[i] = function()
          local stream <close> = assert(net.connect("127.0.0.1", port))
          assert(stream:write("number ", i, "\n"))
          local line, err = stream:read "l"
          return line or error(err or "not enough memory: the server has hung up", 0)
        end
      end
      server:add_done_callback(function() listener:close() end)
      local ok, all = pcall(concur.timeout, 2, concur.gather, clients)
      listener:close()
      concur.wait { server }
      if server:state() == "failed" then error(server:exception(), 0) end
      if failure then error(failure, 0) end
      if not ok then error(all, 0) end
      for i = 1, 4 do assert(all[i] == "number " .. i) end
    end)
  ]], "ECONNRESET")

  scenario("LuaSocket's objects", SOCKETS, [[
    local socket = require "concur.compat.socket"
    concur.run(function()
      local server = assert(socket.bind("127.0.0.1", 0))
      local _, port = server:getsockname()
      local echo = concur.spawn(function()
        local client = assert(server:accept())
        client:settimeout(5)
        assert(client:send(assert(client:receive "*l") .. "\n"))
        client:close()
      end)
      echo:add_done_callback(function() -- else the client waits for an answer
        if echo:state() == "failed" then server:close() end
      end)
      local ok, err = pcall(function()
        local client = assert(socket.connect("127.0.0.1", port))
        client:settimeout(5)
        assert(client:send "hello\n")
        local ready = assert(socket.select({ client }, nil, 5))
        assert(ready[1] == client, "nothing to read")
        assert(assert(client:receive "*l") == "hello")
        client:close()
      end)
      server:close()
      echo:cancel()
      concur.wait { echo }
      if echo:state() == "failed" then error(echo:exception(), 0) end
      if not ok then error(err, 0) end
      local one, two = assert(socket.udp()), assert(socket.udp())
      assert(one:setsockname("127.0.0.1", 0))
      local _, to = one:getsockname()
      one:settimeout(5)
      assert(two:sendto("datagram", "127.0.0.1", to))
      assert(assert(one:receive()) == "datagram")
      one:close()
      two:close()
      local three <close> = assert(socket.udp())
      assert(three:getsockname())
    end)
  ]], "closed")
end)
