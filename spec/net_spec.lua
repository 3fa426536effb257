-- SPDX-License-Identifier: MIT
-- Connecting and listening over real sockets: TCP over IPv4 and IPv6, Unix sockets with and without a
-- file, several addresses at once, addresses, options, descriptors, errors.

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"
local everywhere = require "spec.support.cancel_everywhere"
local expect = require "spec.support.expect"
local lfs = require "lfs"
local support = require "spec.support"
local testing = require "concur.testing"

local net = concur.net
local plain_it = it
local it = testing.wrap_it(it, { clock = false })

-- A listener on a port of the system's choice, and the port.
local function listen(host, options)
  local listener = assert(net.listen(host or "127.0.0.1", 0, options))
  local _, port = listener:address()
  return listener, port
end

-- A port on which nobody listens, now and later.
local REFUSED = 1

-- A port that was free a moment ago.
local function free_port()
  local _ <close>, port = listen()
  return port
end

-- A listener whose queue is full, so that connecting to it never ends; what fills it, to be closed;
-- and the port.
local function full_listener()
  local listener, port = listen("127.0.0.1", { backlog = 1 })
  local tasks = {}
  for i = 1, 4 do
    tasks[i] = concur.spawn(net.connect, "127.0.0.1", port)
  end
  concur.sleep(0.02)
  return listener, expect.guard(function()
    for _, task in ipairs(tasks) do
      task:cancel()
      concur.wait { task }
      if task:state() == "done" and task:result() then
        task:result():close()
      end
    end
    listener:close()
  end), port
end

local function expect_code(code, text, result, err)
  assert.is_nil(result)
  assert.is_true(errors.is(err, "OSError"), tostring(err))
  assert.equal(code, err.code)
  assert.is_truthy(err.message:find(text, 1, true), err.message)
  return err
end

local function exchange(client, server)
  client:write "from the client\n"
  assert.equal("from the client", server:read())
  server:write "from the server\n"
  assert.equal("from the server", client:read())
end

describe("net.connect and net.listen", function()
  for _, host in ipairs { "127.0.0.1", "::1" } do
    it("connect over TCP to " .. host, function()
      local listener <close>, port = listen(host)
      local client <close> = assert(net.connect(host, port))
      local server <close> = assert(listener:accept())
      exchange(client, server)
      assert.same({ host, port }, { client:peer_address() })
      assert.same({ host, port }, { server:local_address() })
      assert.same({ client:local_address() }, { server:peer_address() })
      assert.same({ host, port }, { listener:address() })
    end)
  end

  it("listen to all addresses with '*'", function()
    local listener <close>, port = listen "*"
    for _, host in ipairs { "127.0.0.1", "::1" } do
      local client <close> = assert(net.connect(host, port))
      local server <close> = assert(listener:accept())
      exchange(client, server)
    end
    local refused = false
    for _ = 1, 5 do -- another program may have the same port of IPv4
      local _ <close>, only_port = listen("::", { ipv6only = true })
      local client, err = net.connect("127.0.0.1", only_port)
      if client then
        client:close()
      else
        refused = refused or err.code == "ECONNREFUSED"
      end
    end
    assert.is_true(refused)
  end)

  it("listen to all addresses of one family, or where there is no IPv6", function()
    for family, host in pairs { inet = "0.0.0.0", inet6 = "::" } do
      local listener <close> = assert(net.listen("*", 0, { family = family }))
      assert.equal(host, (listener:address()))
    end
    local out = support.check_lua([[
      local net = require "concur.net"
      local EAFNOSUPPORT = 97
      testhost.fail(" socket ", 1, 1, EAFNOSUPPORT)
      local listener, err = net.listen("*", 0)
      assert(testhost.fail() == 1)
      print(assert(listener, err):address())
      testhost.fail(" socket ", 1, 1, EAFNOSUPPORT)
      print(select(2, net.listen("*", 0, { family = "inet6" })).code)
    ]], { lua = support.host, env = { LUA_CPATH = support.build .. "/faults/?.so;;" } })
    assert.matches("^0%.0%.0%.0\t%d+\nEAFNOSUPPORT\n$", out)
  end)

  it("connect over Unix sockets, and remove the file", function()
    local path = support.tmpdir() .. "/socket"
    local listener = assert(net.listen { path = path })
    assert.equal(path, (listener:address()))
    assert.equal("socket", lfs.attributes(path, "mode"))
    expect_code("EADDRINUSE", path, net.listen { path = path })
    local client <close> = assert(net.connect { path = path })
    local server <close> = assert(listener:accept())
    exchange(client, server)
    assert.equal(path, (client:peer_address()))
    assert.equal("", (server:peer_address()))
    listener:close()
    assert.is_nil(lfs.attributes(path, "mode"))
    expect_code("ENOENT", path, net.connect { path = path })
  end)

  it("leave a file alone that another program has put in its place", function()
    local path = support.tmpdir() .. "/socket"
    local first = assert(net.listen { path = path })
    os.remove(path)
    local second <close> = assert(net.listen { path = path })
    first:close()
    local client <close> = assert(net.connect { path = path })
    assert(second:accept()):close()
    assert.is_false(client:closed())
  end)

  it("connect over abstract Unix names", function()
    local name = ("\0concur-spec-%d"):format(support.pid())
    local listener <close> = assert(net.listen { path = name })
    assert.equal(name, (listener:address()))
    local client <close> = assert(net.connect { path = name })
    local server <close> = assert(listener:accept())
    exchange(client, server)
    expect_code("EADDRINUSE", "@" .. name:sub(2), net.listen { path = name })
  end)

  it("know the zones of addresses", function()
    local _, err = net.connect("fe80::1%lo", 9)
    assert.equal("[fe80::1%lo]:9", err.address)
    _, err = net.listen("fe80::1%lo", 0)
    assert.equal("[fe80::1%lo]:0", err.address)
    assert.is_nil((net.connect("fe80::1%nowhere", 9)))
    expect.message("not an IP address", core.connect_tcp, "fe80::1%nowhere", 9)
    expect.message("not an IP address", core.listen_tcp, "::1\0", 9)
  end)

  it("tell what is wrong, with the address", function()
    local port = REFUSED
    local err = expect_code("ECONNREFUSED", "127.0.0.1:" .. port, net.connect("127.0.0.1", port))
    assert.equal("127.0.0.1:" .. port, err.address)
    assert.equal("connect", err.call)
    expect_code("ECONNREFUSED", "[::1]:" .. port, net.connect("::1", port))
    local listener <close>, used = listen()
    assert(net.connect("127.0.0.1", tostring(used))):close() -- from a text
    expect_code("EADDRINUSE", "127.0.0.1:" .. used, net.listen("127.0.0.1", used))
    expect_code("EADDRNOTAVAIL", "192.0.2.1:0", net.listen("192.0.2.1", 0))
    expect_code("ENOENT", "/nowhere/at/all", net.listen { path = "/nowhere/at/all" })
    assert.is_false(listener:closed())
  end)

  it("refuse wrong arguments and unknown options, and name them", function()
    expect.message("bad argument #1 to 'connect' (host expected, got nil)", net.connect)
    expect.message("bad argument #2 to 'connect' (port expected, got nil)", net.connect,
      "127.0.0.1")
    expect.message("bad argument #2 to 'listen' (port expected, got 65536)", net.listen,
      "127.0.0.1", 65536)
    expect.message("bad argument #2 to 'listen' (port expected, got 1.5)", net.listen,
      "127.0.0.1", 1.5)
    expect.message("unknown option 'tiemout'", net.connect, "127.0.0.1", 1, { tiemout = 1 })
    expect.message("unknown option 'timeout': use concur.timeout", net.connect, "127.0.0.1", 1,
      { timeout = 1 })
    expect.message("unknown option 'limit'", net.listen, "127.0.0.1", 1, { limit = 1 })
    expect.message("option 'nodelay' must be a boolean", net.connect, "127.0.0.1", 1,
      { nodelay = 1 })
    expect.message("option 'path' is missing", net.connect, {})
    expect.message("goes without a host", net.connect, "127.0.0.1", 1, { path = "x" })
    expect.message("the path is too long", net.connect, { path = ("x"):rep(200) })
    expect.message("option 'keepalive' must be a boolean or seconds", net.connect, "127.0.0.1", 1,
      { keepalive = "x" })
    expect.message("options expected, got number", net.listen, "127.0.0.1", 1, 2)
    expect.message("bad argument #1 to 'listen_fd' (not a descriptor)", net.listen_fd, "3")
  end)

  it("name the line that has called them with wrong arguments", function()
    for _, call in ipairs {
      "net.connect()", "net.connect('127.0.0.1')", "net.connect('127.0.0.1', 1, { a = 1 })",
      "net.listen(80)", "net.listen { a = 1 }", "net.serve()", "net.serve(print, 80)",
      "net.serve(print, '127.0.0.1', 0, { a = 1 })", "net.from_fd 'x'", "net.listen_fd(-1)",
      "net.from_fd(1 << 40)", "net.connect('a\\0b', 80)", "net.listen(('x'):rep(2000), 80)",
      "net.connect { path = ('x'):rep(300) }", "net.connect { path = '' }",
      "net.listen { path = ('x'):rep(300) }", "net.listen { path = 'a\\0b' }",
      "net.serve(print, { path = '' })",
      "net.listen('127.0.0.1', 0, { backlog = 0 })",
      "net.listen('127.0.0.1', 0, { keepalive = 0 / 0 })",
      "net.connect('127.0.0.1', 1, { local_address = 'localhost' })",
      "net.connect('127.0.0.1', 1, { local_port = 1.5 })",
      "net.udp(80)", "net.udp(('x'):rep(2000))", "net.udp('127.0.0.1', 0, { ttl = 1.5 })",
    } do
      local name = call:match "^net%.([%w_]+)"
      local program = assert(load("local net = ...\nlocal _ = " .. call, "=script"))
      local ok, message = pcall(program, net)
      assert.is_false(ok)
      local place = ("script:2: bad argument #%%d to '%s'"):format(name)
      assert.equal(1, tostring(message):find(place), message)
    end
  end)

  it("name the line of a resolver's user when it returns no addresses", function()
    for _, result in ipairs { "7", "{ 'x' }", "{ { address = 'x' } }", "{ { address = 1 } }",
      "{ { address = '::1', port = 'x' } }" } do
      local program = assert(load(([[local net = ...
        net.connect("example", 80, { resolver = function() return %s end })]]):format(result),
        "=script"))
      local ok, message = pcall(program, net)
      assert.is_false(ok)
      assert.matches("^script:2: option 'resolver' must return", message)
    end
  end)

  it("use only addresses of the family that is asked for", function()
    for family, host in pairs { inet = "::1", inet6 = "127.0.0.1" } do
      expect_code("EAI_NONAME", host, net.connect(host, REFUSED, { family = family }))
      expect_code("EAI_NONAME", host, net.listen(host, 0, { family = family }))
    end
  end)

  it("leave what is no IP number to the resolver", function()
    for _, host in ipairs { "127.0.0.1:80", "http://127.0.0.1", "http://[::1]:80/", "1::2::3",
      "999.1.1.1", "fe80::1%nowhere" } do
      local asked
      local stream, err = net.connect(host, 80, { resolver = function(name)
        asked = name
        return nil, "unknown"
      end })
      assert.same({ nil, "unknown", host }, { stream, err, asked })
    end
  end)

  it("connect from a local address and port", function()
    local listener <close>, port = listen()
    local from = free_port()
    local client <close> = assert(net.connect("127.0.0.1", port,
      { local_address = "127.0.0.2", local_port = from }))
    assert.same({ "127.0.0.2", from }, { client:local_address() })
    local server <close> = assert(listener:accept())
    assert.same({ "127.0.0.2", from }, { server:peer_address() })
    expect_code("EADDRNOTAVAIL", "127.0.0.1:" .. port, net.connect("127.0.0.1", port,
      { local_address = "192.0.2.1" }))
    for _, host in ipairs { "127.0.0.1", "::1" } do -- a port alone, of any address
      local other <close>, other_port = listen(host)
      from = free_port()
      local again <close> = assert(net.connect(host, other_port, { local_port = from }))
      assert.same({ host, from }, { again:local_address() })
      assert(other:accept()):close()
    end
  end)

  it("set the options of TCP", function()
    local listener <close>, port = listen("127.0.0.1", { nodelay = false, keepalive = 10 })
    local client <close> = assert(net.connect("127.0.0.1", port, { keepalive = true }))
    local server <close> = assert(listener:accept())
    assert.equal(client, client:nodelay(false))
    assert.equal(client, client:nodelay(true))
    assert.equal(server, server:keepalive(30))
    assert.equal(server, server:keepalive(false))
    expect.message("keepalive must be", server.keepalive, server, 0)
    local one <close>, other = net.socketpair()
    other:close()
    expect.message("not a TCP stream", one.nodelay, one, true)
  end)

  it("send small writes at once unless told otherwise, and probe only if asked to", function()
    local luasocket = require "socket"
    local function options_of(stream)
      local probe = assert(luasocket.tcp4())
      local own = probe:getfd()
      probe:setfd(stream:fd())
      local nodelay, keepalive = probe:getoption "tcp-nodelay", probe:getoption "keepalive"
      probe:setfd(own)
      probe:close()
      return { nodelay, keepalive }
    end
    local listener <close>, port = listen()
    local slow <close>, slow_port = listen("127.0.0.1", { nodelay = false, keepalive = 10 })
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    local other <close> = assert(net.connect("127.0.0.1", slow_port,
      { nodelay = false, keepalive = true }))
    local other_server <close> = assert(slow:accept())
    for stream, expected in pairs { [client] = { true, false }, [server] = { true, false },
      [other] = { false, true }, [other_server] = { false, true } } do
      assert.same(expected, options_of(stream))
    end
    assert.same({ true, true }, options_of(other:nodelay(true)))
    assert.same({ true, false }, options_of(other:keepalive(false)))
  end)

  it("probe after the seconds of `keepalive`, 60 if it is true", function()
    local listener <close>, port = listen("127.0.0.1", { keepalive = 10 })
    local client <close> = assert(net.connect("127.0.0.1", port, { keepalive = true }))
    local server <close> = assert(listener:accept())
    local function idle(stream)
      return core.socket_get(stream:fd(), "tcp-keepidle")
    end
    assert.same({ 60, 10 }, { idle(client), idle(server) })
    client:keepalive(7.5)
    server:keepalive(true)
    assert.same({ 8, 60 }, { idle(client), idle(server) })
  end)

  it("wait for a Unix server whose queue is full", function()
    local path = support.tmpdir() .. "/socket"
    local listener <close> = assert(net.listen { path = path, backlog = 1 })
    local clients = {}
    for i = 1, 5 do
      clients[i] = concur.spawn(net.connect, { path = path })
    end
    concur.sleep(0.05)
    local waiting = 0
    for _, client in ipairs(clients) do
      if not client:done() then waiting = waiting + 1 end
    end
    assert.is_true(waiting > 0) -- where the system says EAGAIN
    assert.is_false((concur.move_on_after(0.01, net.connect, { path = path })))
    for _ = 1, 5 do
      assert(listener:accept()):close()
    end
    for i = 1, 5 do
      assert(clients[i]:result()):close()
    end
  end)

  it("let several listeners share a port with reuseport", function()
    local first <close>, port = listen("127.0.0.1", { reuseport = true })
    local second <close> = assert(net.listen("127.0.0.1", port, { reuseport = true }))
    local counts = { 0, 0 }
    local acceptors = {}
    for i, listener in ipairs { first, second } do
      acceptors[i] = concur.spawn(function()
        while true do
          assert(listener:accept()):close()
          counts[i] = counts[i] + 1
        end
      end)
    end
    for _ = 1, 60 do
      local client <close> = assert(net.connect("127.0.0.1", port))
      assert.is_nil((client:read()))
    end
    acceptors[1]:cancel()
    acceptors[2]:cancel()
    concur.wait(acceptors)
    assert.equal(60, counts[1] + counts[2])
    assert.is_true(counts[1] > 0 and counts[2] > 0)
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- Names with several addresses
-- ---------------------------------------------------------------------------------------------

-- A resolver that knows one name.
local function resolver_of(list)
  return function(host, port, options)
    assert(host == "example" and math.type(port) == "integer" and type(options) == "table")
    return list
  end
end

describe("a name with several addresses", function()
  it("is tried until one accepts", function()
    local listener <close>, port = listen()
    local client <close> = assert(net.connect("example", port, { resolver = resolver_of {
      { address = "::1", family = "inet6", port = REFUSED },
      { address = "127.0.0.1", family = "inet" },
    } }))
    assert.same({ "127.0.0.1", port }, { client:peer_address() })
    assert(listener:accept()):close()
  end)

  it("alternates families, and gives each attempt a head start", function()
    local listener <close>, port = listen("::1")
    local full, fillers <close>, full_port = full_listener()
    local started = concur.now()
    local client <close> = assert(net.connect("example", port, {
      attempt_delay = 0.05,
      resolver = resolver_of {
        { address = "127.0.0.1", family = "inet", port = full_port },
        { address = "127.0.0.1", family = "inet", port = full_port },
        { address = "::1", family = "inet6" },
      },
    }))
    assert.equal("::1", (client:peer_address()))
    local took = concur.now() - started
    assert.is_true(took >= 0.045 and took < 0.4 * support.time_scale, took)
    assert(listener:accept()):close()
    full:close()
    assert.is_truthy(fillers)
  end)

  it("has its families tried in turn", function()
    local listener <close>, port = listen("::1")
    local _, fillers <close>, full_port = full_listener()
    local client <close> = concur.timeout(10 * support.time_scale, net.connect, "example", port, {
      attempt_delay = math.huge, -- only a failure makes it go on
      resolver = resolver_of {
        { address = "127.0.0.1", family = "inet", port = REFUSED },
        { address = "127.0.0.1", family = "inet", port = full_port }, -- which never answers
        { address = "::1", family = "inet6" },
      },
    })
    assert.equal("::1", (client:peer_address()))
    assert(listener:accept()):close()
    assert.is_truthy(fillers)
  end)

  plain_it("gives each attempt a quarter of a second, or what is asked for", function()
    for delay, expected in pairs { [false] = 0.25, [1.5] = 1.5, [-1] = 0 } do
      testing.run(function() -- in virtual time
        local listener <close>, port = listen()
        local _, fillers <close>, full_port = full_listener()
        local start = concur.now()
        local client <close> = assert(net.connect("example", port, {
          attempt_delay = delay or nil,
          resolver = resolver_of {
            { address = "127.0.0.1", family = "inet", port = full_port },
            { address = "127.0.0.1", family = "inet" },
          },
        }))
        assert.near(expected, concur.now() - start, 1e-6)
        assert(listener:accept()):close()
        assert.is_truthy(fillers)
        client:close()
      end)
    end
  end)

  it("fails with all that went wrong", function()
    local a, b = REFUSED, REFUSED + 1
    local err = expect_code("ECONNREFUSED", "connect example:1: all 2 addresses failed",
      net.connect("example", 1, { resolver = resolver_of {
        { address = "127.0.0.1", family = "inet", port = a },
        { address = "::1", family = "inet6", port = b },
      } }))
    assert.is_truthy(err.message:find("127.0.0.1:" .. a, 1, true))
    assert.is_truthy(err.message:find("[::1]:" .. b, 1, true))
  end)

  it("may have a port of its own", function()
    local listener <close>, port = listen()
    for count = 1, 2 do
      local list = {}
      for i = 1, count do
        list[i] = { address = "127.0.0.1", family = "inet", port = port }
      end
      local client <close> = assert(net.connect("example", REFUSED,
        { resolver = resolver_of(list) }))
      assert(listener:accept()):close()
      assert.same({ "127.0.0.1", port }, { client:peer_address() })
    end
    local free = free_port()
    local other <close> = assert(net.listen("example", 0, { resolver = resolver_of {
      { address = "127.0.0.1", family = "inet", port = free },
    } }))
    assert.same({ "127.0.0.1", free }, { other:address() })
  end)

  it("passes on what its resolver says", function()
    local failure = errors.new("OSError", "example: unknown", { code = "EAI_NONAME" })
    local result, err = net.connect("example", 1, { resolver = function()
      return nil, failure
    end })
    assert.is_nil(result)
    assert.equal(failure, err)
    expect_code("EAI_NODATA", "example", net.connect("example", 1, { resolver = resolver_of {} }))
  end)

  it("keeps one connection when two arrive together", function()
    local listener <close>, port = listen()
    for _ = 1, 20 do
      local client <close> = assert(net.connect("example", port, {
        attempt_delay = 0,
        resolver = resolver_of {
          { address = "127.0.0.1", family = "inet" }, { address = "127.0.0.1", family = "inet" },
          { address = "127.0.0.1", family = "inet" },
        },
      }))
      client:write "x\n"
      local texts = {}
      local function accept()
        local server <close> = assert(listener:accept())
        texts[#texts + 1] = server:read "l" -- those that were given up show the end at once
      end
      repeat
        concur.timeout(5, accept)
      until #texts > 0
      concur.move_on_after(0.005, function()
        while true do accept() end
      end)
      assert.same({ "x" }, texts)
    end
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- Accepting
-- ---------------------------------------------------------------------------------------------

describe("a listener", function()
  it("serves several tasks that accept, in turn", function()
    local listener <close>, port = listen()
    local acceptors = {}
    for i = 1, 3 do
      acceptors[i] = concur.spawn(listener.accept, listener)
    end
    concur.checkpoint()
    local clients = {}
    for i = 1, 3 do
      clients[i] = assert(net.connect("127.0.0.1", port))
    end
    for i = 1, 3 do
      acceptors[i]:result():close()
      clients[i]:close()
    end
  end)

  it("loses no connection when accept is cancelled", function()
    local listener <close>, port = listen()
    local acceptor = concur.spawn(listener.accept, listener)
    concur.checkpoint()
    acceptor:cancel()
    concur.wait { acceptor }
    assert.is_true(acceptor:cancelled())
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    exchange(client, server)
    assert.is_false((concur.move_on_after(0.005, listener.accept, listener)))
  end)

  it("wakes who accepts when it is closed; then accepting is misuse", function()
    local listener = listen()
    local acceptor = concur.spawn(listener.accept, listener)
    concur.checkpoint()
    assert.is_truthy(tostring(listener):find "127%.0%.0%.1:%d+")
    listener:close()
    listener:close()
    local result, err = acceptor:result()
    assert.is_nil(result)
    assert.equal("Closed", err.kind)
    assert.is_true(listener:closed())
    assert.is_truthy(tostring(listener):find("closed", 1, true))
    for _, name in ipairs { "accept", "address", "fd" } do
      expect.error("Closed", listener[name], listener)
    end
  end)

  it("can follow another one on its port, whose connections linger in the system", function()
    local listener, port = listen()
    local client = assert(net.connect("127.0.0.1", port))
    local server = assert(listener:accept())
    server:close() -- first, so that it is this side which lingers
    assert.is_nil((client:read()))
    client:close()
    listener:close()
    local again <close> = assert(net.listen("127.0.0.1", port))
    assert.is_false(again:closed())
  end)

  it("that nobody refers to gives its port back", function()
    local port = select(2, listen())
    collectgarbage()
    collectgarbage()
    local again <close> = assert(net.listen("127.0.0.1", port))
    assert.is_false(again:closed())
  end)

  it("says EMFILE when descriptors run out, and the connection waits", function()
    local script = support.tmpdir() .. "/script.lua"
    support.write_file(script, [[
      local concur = require "concur"
      local net = concur.net
      require "concur.error_text" -- while a file can be opened
      concur.run(function()
        local listener = assert(net.listen("127.0.0.1", 0))
        local _, port = listener:address()
        local client = assert(net.connect("127.0.0.1", port))
        local hogs = {}
        repeat
          local file = io.open "/dev/null"
          hogs[#hogs + 1] = file
        until not file
        local stream, err = listener:accept()
        assert(stream == nil and err.code == "EMFILE", tostring(err))
        local result, err = net.connect("127.0.0.1", port)
        assert(result == nil and err.code == "EMFILE", tostring(err))
        for _, hog in ipairs(hogs) do hog:close() end
        collectgarbage "stop"
        while net.udp() do end -- those that nobody refers to any more need not be closed by hand
        local server = assert(listener:accept())
        collectgarbage "restart"
        server:write "it waited"
        server:close()
        print(client:read "a")
      end)]])
    local result = support.execute({ "sh", "-c", 'ulimit -n 40 && exec "$0" "$@"', support.lua,
      script }, { env = {
        LUA_PATH = support.root .. "/lua/?.lua;" .. support.root .. "/lua/?/init.lua;;",
        LUA_CPATH = support.build .. "/?.so;;",
      } })
    assert.equal("it waited\n", result.stdout, support.describe(result))
  end)
end)

-- ---------------------------------------------------------------------------------------------
-- Cancelled connecting
-- ---------------------------------------------------------------------------------------------

describe("connecting", function()
  it("that is cancelled leaves no descriptor", function()
    local full, fillers <close>, port = full_listener()
    local before = support.fds()
    local entry = { address = "127.0.0.1", family = "inet", port = port }
    for _, connect in ipairs {
      function()
        return net.connect("127.0.0.1", port)
      end,
      function()
        return net.connect("example", 9,
          { attempt_delay = 0.001, resolver = resolver_of { entry, entry, entry } })
      end,
    } do
      local ended, stream = concur.move_on_after(0.02, connect)
      assert.is_false(ended, tostring(stream))
    end
    concur.sleep(0)
    assert.equal(before, support.fds())
    assert.is_false(full:closed())
    assert.is_truthy(fillers)
  end)
end)

describe("a task that is killed while it connects", function()
  it("leaves no descriptor", function()
    local full, fillers <close>, port = full_listener()
    local before = support.fds()
    local task = concur.spawn(core.connect_tcp, "127.0.0.1", port)
    concur.sleep(0.01)
    assert.is_false(task:done())
    task:kill()
    concur.sleep(0)
    assert.is_true(task:done())
    assert.equal(before, support.fds())
    assert.is_false(full:closed())
    assert.is_truthy(fillers)
  end)
end)

describe("cancelled at every step", function()
  -- What a scenario opens is closed again, so this many descriptors are left after each run.
  local function descriptors_after(scenario)
    local warm = assert(net.socketpair())
    warm:close()
    local before = support.fds()
    everywhere(function(case)
      scenario(case)
      concur.checkpoint() -- what was closed a moment ago is closed for libuv, too
      assert.is_true(support.fds() <= before + 1, "a descriptor is left")
    end, { also = { "kill" } })
  end

  plain_it("connecting and accepting lose no connection and no descriptor", function()
    descriptors_after(function(case)
      local listener, port = listen()
      local victim = case:victim(function()
        local client <close> = assert(net.connect("127.0.0.1", port))
        local server <close> = assert(listener:accept())
        client:write "x\n"
        assert.equal("x", server:read())
      end)
      local outcome, err = case:join(victim)
      assert.is_truthy(outcome == "done" or outcome == "cancelled", tostring(err))
      listener:close()
      collectgarbage() -- a task that was killed between two lines holds nothing any more
    end)
  end)

  plain_it("connecting to several addresses leaves one connection or none", function()
    descriptors_after(function(case)
      local listener, port = listen()
      local entry = { address = "127.0.0.1", family = "inet" }
      local connected
      local victim = case:victim(function()
        connected = assert(net.connect("example", port,
          { attempt_delay = 0, resolver = resolver_of { entry, entry } }))
      end)
      local outcome, err = case:join(victim)
      assert.is_truthy(outcome == "done" or outcome == "cancelled", tostring(err))
      if connected then
        assert.is_false(connected:closed())
        connected:close()
      end
      listener:close()
      collectgarbage()
    end)
  end)
end)

describe("descriptors", function()
  it("come in from elsewhere", function()
    local listener <close>, port = listen()
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    local err = expect_code("EBADF", "from_fd", net.from_fd(999))
    assert.equal("OSError", err.kind)
    expect_code("EINVAL", "from_fd", net.from_fd(listener:fd()))
    expect.message("not a descriptor", net.from_fd, -1)
    exchange(client, server)
  end)

  it("go out with the bytes that were not read, and come in again", function()
    local one, other = net.socketpair()
    one:write "unread "
    assert.equal("un", other:read(2))
    local fd, rest = other:detach()
    assert.is_true(other:closed())
    assert.equal("read ", rest)
    local again <close> = assert(net.from_fd(fd))
    one:write "and more"
    one:close()
    assert.equal("and more", again:read "a")
  end)

  it("of TCP keep their addresses", function()
    local listener <close>, port = listen()
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    local again <close> = assert(net.from_fd((assert(client:detach()))))
    assert.same({ "127.0.0.1", port }, { again:peer_address() })
    assert.is_truthy(again:nodelay(true))
    exchange(again, server)
  end)

  it("stay while something is unsent or waited for", function()
    local one, other = net.socketpair()
    one:write(("x"):rep(1000000))
    expect.error("InvalidState", one.detach, one)
    local reader = concur.spawn(other.read, other, "a")
    concur.checkpoint()
    expect.error("InvalidState", other.detach, other)
    one:close()
    assert.equal(1000000, #reader:result())
    other:close()
  end)

  it("of listeners come in too", function()
    local listener <close>, port = listen()
    local again <close> = assert(net.listen_fd(assert(listener:detach())))
    assert.is_true(listener:closed())
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(again:accept())
    exchange(client, server)
    expect_code("EINVAL", "listen", net.listen_fd(client:fd()))
    expect_code("EBADF", "listen", net.listen_fd(999))
  end)

  it("of listeners take options of the connections, and no others", function()
    local listener, port = listen()
    local again <close> = assert(net.listen_fd(assert(listener:detach()),
      { nodelay = false, keepalive = 20 }))
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(again:accept())
    assert.is_false(core.socket_get(server:fd(), "tcp-nodelay"))
    assert.equal(20, core.socket_get(server:fd(), "tcp-keepidle"))
    expect.message("bad argument #2 to 'listen_fd' (unknown option 'backlog')", net.listen_fd, 999,
      { backlog = 1 })
    assert.is_false(client:closed())
  end)

  it("of listeners leave their file, and nobody waiting", function()
    local path = support.tmpdir() .. "/socket"
    local listener = assert(net.listen { path = path })
    local acceptor = concur.spawn(listener.accept, listener)
    concur.checkpoint()
    local fd = assert(listener:detach())
    assert.equal("Closed", select(2, acceptor:result()).kind)
    assert.equal("socket", lfs.attributes(path, "mode"))
    local again <close> = assert(net.listen_fd(fd))
    local client <close> = assert(net.connect { path = path })
    local server <close> = assert(again:accept())
    exchange(client, server)
  end)

  it("are not inherited by programs that are started", function()
    local listener <close>, port = listen()
    local client <close> = assert(net.connect("127.0.0.1", port))
    local server <close> = assert(listener:accept())
    local one <close>, other = net.socketpair()
    local datagrams <close> = assert(net.udp "127.0.0.1")
    local fd = assert(other:detach())
    local spare = listen()
    local again <close> = assert(net.listen_fd(assert(spare:detach())))
    for i, number in ipairs { listener:fd(), client:fd(), server:fd(), one:fd(), datagrams:fd(), fd,
      again:fd() } do
      assert.is_true(os.execute(("test ! -e /proc/self/fd/%d"):format(number)), i)
    end
    assert(net.from_fd(fd)):close()
  end)

  it("go to another thread, with what was read already", function()
    local listener <close>, port = listen()
    local client <close> = assert(net.connect("127.0.0.1", port))
    client:write "first\nsecond\n"
    local server = assert(listener:accept())
    assert.equal("first", server:read())
    local answer = concur.spawn(concur.to_thread, function(fd, rest)
      local stream <close> = assert(require("concur.net").from_fd(fd))
      stream:write("thread: ", rest, stream:read "L")
      return "served"
    end, server:detach())
    client:write "third\n"
    assert.equal("thread: second", client:read())
    assert.equal("third", client:read())
    assert.is_nil((client:read()))
    assert.equal("served", answer:result())
  end)
end)
