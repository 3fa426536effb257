-- SPDX-License-Identifier: MIT
-- net.udp: datagrams over the loopback interface.

local concur = require "concur"
local core = require "concur.core"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local net = require "concur.net"
local support = require "spec.support"
local virtual = require "spec.support.virtual"

local failure, failure_of_kind = virtual.failure, virtual.failure_of_kind

-- Two sockets, the port of the first, and what closes both.
local function pair(...)
  local one, two = assert(net.udp("127.0.0.1", 0, ...)), assert(net.udp "127.0.0.1")
  local _, port = one:address()
  return one, two, port, expect.guard(function()
    one:close()
    two:close()
  end)
end

describe("net.udp", function()
  it("sends and receives, and says from where", function()
    local one, two, port, _ <close> = pair()
    assert.is_true(two:send_to("hello", "127.0.0.1", port))
    local data, host, from, truncated = one:recv_from()
    assert.equal("hello", data)
    assert.equal("127.0.0.1", host)
    assert.equal(select(2, two:address()), from)
    assert.is_nil(truncated)
    assert.is_true(one:send_to("", host, from))
    assert.equal("", (two:recv_from()))
  end)

  it("waits for a datagram while other tasks run", function()
    local one, two, port, _ <close> = pair()
    concur.run(function()
      local receiver = concur.spawn(one.recv_from, one)
      concur.timeout(5, function()
        repeat
          concur.sleep(0.001)
        until receiver:awaiting() == "Udp:recv_from"
      end)
      two:send_to("late", "127.0.0.1", port)
      assert.equal("late", (receiver:result()))
    end)
  end)

  it("keeps the borders of datagrams and their bytes", function()
    local one, two, port, _ <close> = pair { receive_buffer = 4194304 }
    local sent = {}
    for i = 1, 50 do
      sent[i] = (string.char(i % 256, 0, 255)):rep(i * 20)
      assert(two:send_to(sent[i], "127.0.0.1", port))
    end
    for i = 1, 50 do
      assert.equal(sent[i], (one:recv_from()))
    end
    local largest = ("x"):rep(65507)
    assert(two:send_to(largest, "127.0.0.1", port))
    assert.equal(largest, (one:recv_from()))
  end)

  it("says when a datagram was cut", function()
    local one, two, port, _ <close> = pair()
    for _ = 1, 3 do
      two:send_to("0123456789", "127.0.0.1", port)
    end
    assert.same({ "0123", true }, { (one:recv_from(4)), (select(4, one:recv_from(0))) })
    local data, _, _, truncated = one:recv_from(10)
    assert.same({ "0123456789" }, { data, truncated })
  end)

  it("takes names, and IPv6", function()
    local one <close> = assert(net.udp("localhost", 0))
    assert.equal("127.0.0.1", (one:address()))
    local _, port = one:address()
    local two <close> = assert(net.udp())
    assert(two:send_to("by name", "localhost", port))
    assert.equal("by name", (one:recv_from()))
    local six <close> = assert(net.udp("::1"))
    local _, port6 = six:address()
    local other <close> = assert(net.udp("*", 0, { family = "inet6" }))
    assert(other:send_to("six", "localhost", port6))
    local data, host = six:recv_from()
    assert.same({ "six", "::1" }, { data, host })
    local ok, err = two:send_to("x", "a..b", 1)
    assert.is_nil(ok)
    assert.matches("^EAI_", err.code)
  end)

  it("can be connected: it hears nobody else, and learns that nobody is there", function()
    local one, two, port, _ <close> = pair()
    assert.equal("ENOTCONN", select(2, two:peer_address()).code)
    assert.is_true(two:connect("localhost", port))
    assert.same({ "127.0.0.1", port }, { two:peer_address() })
    assert.is_true(two:send "to the peer")
    local _, host, from = one:recv_from()
    local stranger <close> = assert(net.udp "127.0.0.1")
    stranger:send_to("from a stranger", host, from)
    one:send_to("from the peer", host, from)
    assert.equal("from the peer", (two:recv_from()))
    one:close()
    two:send "into the void"
    local ok, err = two:recv_from()
    assert.is_nil(ok)
    assert.equal("ECONNREFUSED", err.code)
    assert.is_true(two:connect())
    assert.equal("ENOTCONN", select(2, two:peer_address()).code)
  end)

  it("gives errors of the system", function()
    local one, two, port, _ <close> = pair()
    local function code(ok, err)
      assert.is_nil(ok)
      assert.is_true(concur.errors.is(err, "OSError"))
      return err.code
    end
    assert.equal("EADDRINUSE", code(net.udp("127.0.0.1", port)))
    assert.equal("EMSGSIZE", code(two:send_to(("x"):rep(65536), "127.0.0.1", port)))
    assert.equal("EDESTADDRREQ", code(two:send "x"))
    assert.equal("EADDRNOTAVAIL", code(net.udp("192.0.2.1", 0)))
    local _, err = net.udp("127.0.0.1", port)
    assert.matches("127.0.0.1:" .. port, tostring(err), 1, true)
    assert.equal("EAFNOSUPPORT", code(one:send_to("x", "::1", port)))
    assert.equal("EAFNOSUPPORT", code(one:connect("::1", port)))
    assert.equal("ENODEV", code(net.udp("127.0.0.1", 0, { multicast_interface = "no0" })))
  end)

  it("sends broadcasts only with the option", function()
    local one <close> = assert(net.udp())
    local ok, err = one:send_to("x", "255.255.255.255", 9)
    assert.is_nil(ok)
    assert.equal("EACCES", err.code)
    assert.is_true(one:set { broadcast = true })
    ok, err = one:send_to("x", "255.255.255.255", 9)
    assert.is_true(ok or err.code == "ENETUNREACH") -- allowed, if there is a network
    assert(net.udp(nil, 0, { broadcast = true })):close()
  end)

  it("joins and leaves multicast groups", function()
    local group = "239.255.7.7"
    local options = { multicast_interface = "lo", multicast_loop = true, multicast_ttl = 1 }
    local one <close> = assert(net.udp(nil, 0, options))
    local two <close> = assert(net.udp(nil, 0, options))
    local _, port = one:address()
    assert.is_true(one:join(group, "lo"))
    assert.is_true(two:send_to("to all", group, port))
    assert.equal("to all", (one:recv_from()))
    assert.is_true(one:leave(group, "lo"))
    assert.is_true(one:join(group, "127.0.0.1"))
    assert.is_true(two:send_to("again", group, port))
    assert.equal("again", (one:recv_from()))
    assert.is_true(one:leave(group, "127.0.0.1"))
    two:send_to("nobody", group, port)
    assert.is_false((concur.move_on_after(0.02, one.recv_from, one)))
    for _, case in ipairs { { "ENODEV", group, "no0" }, { "EINVAL", "nonsense", "lo" },
      { "EADDRNOTAVAIL", "239.1.2.3", "lo", "leave" } } do
      local ok, err = one[case[4] or "join"](one, case[2], case[3])
      assert.is_nil(ok)
      assert.equal(case[1], err.code)
    end
    local six <close> = assert(net.udp("::", 0))
    assert.is_true(six:join("ff02::1:7", "lo"))
    assert.is_true(six:leave("ff02::1:7", "lo"))
    assert.is_true(six:set { multicast_interface = "lo" })
    assert.is_true(six:set { ttl = 7, multicast_ttl = 1, multicast_loop = true })
    assert.equal("EINVAL", select(2, one:set { multicast_interface = "::1" }).code)
    assert.equal("ENODEV", select(2, one:set { multicast_interface = "no0" }).code)
  end)

  it("sets each option at the system, at first and later", function()
    local function options_of(socket, ...)
      local values = {}
      for i, name in ipairs { ... } do
        values[i] = core.socket_get(socket:fd(), name)
      end
      return values
    end
    local FOUR = { "broadcast", "ip-multicast-ttl", "ip-multicast-loop", "reuseaddr", "reuseport" }
    local plain <close> = assert(net.udp("127.0.0.1", 0))
    assert.same({ false, 1, true, false, false }, options_of(plain, table.unpack(FOUR)))
    local one <close> = assert(net.udp("127.0.0.1", 0, { broadcast = true, multicast_ttl = 3,
      multicast_loop = false, reuseaddr = true, reuseport = true }))
    assert.same({ true, 3, false, true, true }, options_of(one, table.unpack(FOUR)))
    assert(one:set { broadcast = false, multicast_ttl = 4, multicast_loop = true })
    assert.same({ false, 4, true, true, true }, options_of(one, table.unpack(FOUR)))
    assert(one:set { receive_buffer = 20000, send_buffer = 30000 })
    local sizes = options_of(one, "recv-buffer-size", "send-buffer-size")
    assert.is_true(sizes[1] >= 20000 and sizes[1] <= 40000, sizes[1]) -- Linux doubles them
    assert.is_true(sizes[2] >= 30000 and sizes[2] <= 60000, sizes[2])
    local SIX = { "ipv6-unicast-hops", "ipv6-multicast-hops", "ipv6-multicast-loop", "ipv6-v6only" }
    local six <close> = assert(net.udp("::1", 0, { ttl = 5, multicast_ttl = 6,
      multicast_loop = false, ipv6only = true }))
    assert.same({ 5, 6, false, true }, options_of(six, table.unpack(SIX)))
  end)

  it("hears IPv4 on an IPv6 socket, unless it is for IPv6 only", function()
    for _, only in ipairs { false, true } do
      local all <close> = assert(net.udp("*", 0, { family = "inet6", ipv6only = only }))
      local _, port = all:address()
      local two <close> = assert(net.udp "127.0.0.1")
      two:send_to("by IPv4", "127.0.0.1", port)
      local heard, data, host = concur.move_on_after(0.02, all.recv_from, all)
      assert.same(only and { false } or { true, "by IPv4", "::ffff:127.0.0.1" },
        { heard, data, host })
    end
  end)

  it("has an address of the family that is asked for, or none", function()
    for family, host in pairs { inet = "::1", inet6 = "127.0.0.1" } do
      local socket, err = net.udp(host, 0, { family = family })
      assert.is_nil(socket)
      assert.equal("EAI_NONAME", err.code)
      assert.equal(host, err.address)
    end
    for family, host in pairs { inet = "127.0.0.1", inet6 = "::1" } do
      for _, name in ipairs { host, "localhost" } do
        local socket <close> = assert(net.udp(name, 0, { family = family }))
        assert.equal(host, (socket:address()))
      end
    end
  end)

  it("shares a port with reuseport", function()
    local one <close> = assert(net.udp("127.0.0.1", 0, { reuseport = true }))
    local _, port = one:address()
    local two <close> = assert(net.udp("127.0.0.1", port, { reuseport = true }))
    assert.equal(port, select(2, two:address()))
  end)

  it("is closed once; who waits gets Closed, who calls it then an error", function()
    local one, two, _, _ <close> = pair()
    concur.run(function()
      local receiver = concur.spawn(one.recv_from, one)
      local chooser = concur.spawn(concur.select, { one:receiving() })
      concur.sleep(0)
      one:close()
      one:close()
      local ok, err = receiver:result()
      assert.is_nil(ok)
      assert.is_true(concur.errors.is(err, "Closed"))
      local key, nothing, closed = chooser:result()
      assert.same({ 1, nil }, { key, nothing })
      assert.is_true(concur.errors.is(closed, "Closed"))
      assert.is_true(one:closed())
      assert.is_false(two:closed())
      for _, name in ipairs { "recv_from", "send", "address", "peer_address", "fd", "receiving",
        "join", "leave" } do
        failure_of_kind("Closed", one[name], one, "x")
      end
      failure_of_kind("Closed", one.set, one, {})
      failure_of_kind("Closed", one.send_to, one, "x", "127.0.0.1", 1)
      assert.matches("closed", tostring(one))
      assert.matches("127.0.0.1:%d+", tostring(two))
    end)
  end)

  it("checks its arguments", function()
    local one <close> = assert(net.udp())
    local cases = {
      { "#1", net.udp, {} },
      { "#2", net.udp, "127.0.0.1", -1 },
      { "#2", net.udp, "127.0.0.1", "x" },
      { "unknown option 'reuse'", net.udp, nil, 0, { reuse = true } },
      { "option 'ttl': integer expected", net.udp, nil, 0, { ttl = "x" } },
      { "option 'ttl': integer expected", net.udp, nil, 0, { ttl = 1.5 } },
      { "'ipx' is not possible", net.udp, nil, 0, { family = "ipx" } },
      { "unknown option 'family'", one.set, one, { family = "inet" } },
      { "option 'broadcast': boolean expected", one.set, one, { broadcast = 1 } },
      { "string expected", one.send_to, one, {}, "127.0.0.1", 1 },
      { "#2 to 'send_to' (host expected, got nil)", one.send_to, one, "x", nil, 1 },
      { "#3 to 'send_to' (port expected, got 65536)", one.send_to, one, "x", "127.0.0.1", 65536 },
      { "#3 to 'send_to' (port expected, got nil)", one.send_to, one, "x", "127.0.0.1" },
      { "#1 to 'connect' (host expected, got number)", one.connect, one, 80 },
      { "must not be negative", one.recv_from, one, -1 },
      { "concur.Udp expected", one.recv_from, io.stdout },
    }
    for _, case in ipairs(cases) do
      local e = tostring(failure(table.unpack(case, 2, 6)))
      assert.matches(case[1], e, 1, true)
    end
    local ok, err = one:set { ttl = 1000 }
    assert.is_nil(ok)
    assert.matches("option 'ttl'", tostring(err))
  end)
end)

describe("several tasks at one socket", function()
  it("receive each datagram once, in their order", function()
    local one, two, port, _ <close> = pair()
    concur.run(function()
      local order, tasks = {}, {}
      for i = 1, 20 do
        tasks[i] = concur.spawn(function()
          local data = one:recv_from()
          order[#order + 1] = { i, data }
        end)
      end
      concur.sleep(0)
      for i = 1, 20 do
        two:send_to(tostring(i), "127.0.0.1", port)
      end
      concur.gather(tasks)
      for i = 1, 20 do
        assert.same({ i, tostring(i) }, order[i])
      end
    end)
  end)

  it("take nothing from one who was woken and has not run yet", function()
    local one, two, port, _ <close> = pair()
    concur.run(function()
      local got = {}
      local first = concur.spawn(function()
        local data = one:recv_from()
        got[#got + 1] = "first " .. data
      end)
      concur.sleep(0)
      for i = 1, 30 do
        two:send_to(tostring(i), "127.0.0.1", port)
      end
      local second = concur.spawn(function()
        for _ = 1, 29 do
          local data = one:recv_from()
          got[#got + 1] = "second " .. data
        end
      end)
      concur.gather(first, second)
      assert.equal("first 1", got[1])
      assert.equal("second 30", got[30])
    end)
  end)

  it("may both send when the system has no room", function()
    local _, two, port, _ <close> = pair { receive_buffer = 4096 }
    two:set { send_buffer = 4096 }
    concur.run(function()
      local sent = 0
      local function sender()
        for _ = 1, 200 do
          assert(two:send_to(("x"):rep(1000), "127.0.0.1", port))
          sent = sent + 1
        end
      end
      concur.gather(sender, sender)
      assert.equal(400, sent)
    end)
  end)
end)

describe("an arm that receives", function()
  it("takes exactly one datagram, or leaves it", function()
    local one, two, port, _ <close> = pair()
    concur.run(function()
      assert.equal("time", (concur.select { data = one:receiving(), time = concur.after(0.001) }))
      two:send_to("here already", "127.0.0.1", port)
      local key, data, host = concur.select { data = one:receiving(), time = concur.after(10) }
      assert.same({ "data", "here already", "127.0.0.1" }, { key, data, host })
      local task = concur.spawn(concur.select, { data = one:receiving(), time = concur.after(10) })
      concur.sleep(0)
      two:send_to("later", "127.0.0.1", port)
      assert.same({ "data", "later" }, { table.unpack({ task:result() }, 1, 2) })
      local event = concur.Event()
      event:set()
      two:send_to("stays", "127.0.0.1", port)
      assert.equal(1, (concur.select { event:waiting(), one:receiving() }))
      assert.equal("stays", (one:recv_from()))
    end)
  end)
end)

describe("a sending task", function()
  it("that is cancelled while the system has no room has sent nothing", function()
    support.check_lua([[
      local concur = require "concur"
      concur.run(function()
        local one <close> = assert(concur.net.udp("127.0.0.1", 0))
        local two <close> = assert(concur.net.udp "127.0.0.1")
        local _, port = one:address()
        assert(two:connect("127.0.0.1", port))
        local EAGAIN = 11
        for _, send in ipairs { function() return two:send "never" end,
          function() return two:send_to("never", "127.0.0.1", port) end } do
          testhost.fail(" sendmsg sendto send ", 1, 1 << 40, EAGAIN)
          assert(not concur.move_on_after(0.01, send))
          assert(testhost.fail() > 0)
        end
        assert(two:send "now")
        assert(one:recv_from() == "now")
      end)
    ]], { lua = support.host, env = { LUA_CPATH = support.build .. "/faults/?.so;;" } })
  end)
end)

describe("a receiving task", function()
  it("can be cancelled at every step; no datagram is lost", function()
    everywhere(function(case)
      local one, two, port, _ <close> = pair()
      case:victim(function()
        local _ <close> = case:guard()
        return (one:recv_from())
      end)
      local sender = concur.spawn(function()
        concur.sleep(1)
        two:send_to("only one", "127.0.0.1", port)
      end)
      local outcome, data = case:join()
      concur.wait { sender }
      if outcome == "done" then
        assert.equal("only one", data)
        assert.is_false((concur.move_on_after(1, one.recv_from, one)))
      else
        assert.equal("cancelled", outcome)
        assert.equal("only one", (one:recv_from()))
      end
    end, { also = { "kill" } })
  end)

  it("can be cancelled at every step in a select, too", function()
    everywhere(function(case)
      local one, two, port, _ <close> = pair()
      case:victim(function()
        local _ <close> = case:guard()
        local key, data = concur.select { data = one:receiving(), event = concur.Event():waiting() }
        assert.equal("data", key)
        return data
      end)
      local sender = concur.spawn(function()
        concur.sleep(1)
        two:send_to("only one", "127.0.0.1", port)
      end)
      local outcome, data = case:join()
      concur.wait { sender }
      if outcome ~= "done" then
        assert.equal("cancelled", outcome)
        data = one:recv_from()
      end
      assert.equal("only one", data)
      assert.is_false((concur.move_on_after(1, one.recv_from, one)))
    end, { also = { "kill" } })
  end)

  it("is forgotten when the state closes", function()
    local result = support.run_lua([[
      local concur = require "concur"
      local one = assert(concur.net.udp "127.0.0.1")
      concur.spawn(one.recv_from, one)
      concur.spawn(concur.select, { one:receiving(), concur.after(100) })
      concur.sleep(0.01)
    ]], { lua = support.host })
    assert.equal(0, result.code, support.describe(result))
  end)

  it("is not left alone by a collected socket", function()
    concur.run(function()
      local port
      local task = concur.spawn(function()
        local one <close> = assert(net.udp "127.0.0.1")
        port = select(2, one:address())
        return (one:recv_from())
      end)
      concur.sleep(0)
      collectgarbage()
      local two <close> = assert(net.udp())
      two:send_to("still there", "127.0.0.1", port)
      assert.equal("still there", task:result())
    end)
    local fd
    do
      fd = assert(net.udp()):fd()
    end
    collectgarbage()
    local again <close> = assert(net.udp())
    assert.equal(fd, again:fd())
  end)
end)
