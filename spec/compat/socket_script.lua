-- SPDX-License-Identifier: MIT
-- Uses LuaSocket, or what claims to be like it, and prints what it answers. spec/compat_socket_spec.lua
-- runs it with both: `lua socket_script.lua MODULE SEED`.

local socket = require(arg[1])
local seed = math.tointeger(arg[2])

-- Prints a line: a label and the values, without what differs from run to run.
local function show(label, ...)
  local values = table.pack(...)
  for i = 1, values.n do
    local value = values[i]
    local kind = math.type(value) or type(value)
    local text = tostring(value):gsub("0x%x+", "ADDRESS"):gsub("to '[%w_.?]+'", "to '?'")
    values[i] = (kind == "userdata" or kind == "table") and text or kind .. " " .. text
  end
  print(label, table.concat(values, " | "))
end

-- A call that raises: its message.
local function show_error(label, fn, ...)
  local ok, message = pcall(fn, ...)
  show(label, ok, (tostring(message):gsub("^.-: bad argument", "bad argument")
    :gsub("^[^ ]+:%d+: ", "")))
end

local function pair()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  local client = assert(socket.connect("127.0.0.1", port))
  local peer = assert(server:accept())
  client:settimeout(5)
  peer:settimeout(5)
  client:setoption("tcp-nodelay", true)
  return client, peer, server
end

local function close(...)
  for _, object in ipairs { ... } do
    object:close()
  end
end

-- New objects -----------------------------------------------------------------------------------

do
  local master = socket.tcp()
  show("master", master, master:getfd(), master:gettimeout())
  show("its name", master:getsockname())
  show("its peer", master:getpeername())
  show("its family", master:getfamily(), socket.tcp6():getfamily())
  show("dirty", master:dirty())
  show_error("receive of a master", master.receive, master)
  show_error("send of a master", master.send, master, "x")
  show_error("accept of a master", master.accept, master)
  show_error("an unknown option", master.setoption, master, "nonsense", true)
  show("bind", master:bind("127.0.0.1", 0))
  show("listen", master:listen(5))
  show("server", master)
  local host, port, family = master:getsockname()
  show("its name", host, type(port), tonumber(port) > 0, family)
  show("its peer", master:getpeername())
  show_error("receive of a server", master.receive, master)
  show("settimeout", master:settimeout(0))
  show("accept without a client", master:accept())
  master:settimeout(0.05)
  local start = socket.gettime()
  show("accept in time", master:accept())
  show("it waited", socket.gettime() - start >= 0.04)
  show("gettimeout", master:gettimeout())
  show("a port that is used", socket.bind("127.0.0.1", port))
  show("an address of others", socket.bind("192.0.2.1", 0))
  master:close()
  show("closed", master:accept())
  show("refused", socket.connect("127.0.0.1", port))
  show("unknown host", socket.connect("a..b", 80))
end

-- Patterns --------------------------------------------------------------------------------------

do
  local client, peer, server = pair()
  show("client", client, select("#", client:getpeername()))
  show("send", client:send "hello\r\nwor\rld\n\n123456789rest")
  show("a line", peer:receive())
  show("a line without its CRs", peer:receive "*l")
  show("an empty line", peer:receive "*line")
  show("dirty", peer:dirty())
  show("3 bytes", peer:receive(3))
  show("5 with a prefix", peer:receive(5, "ab"))
  show("0 bytes", peer:receive(0))
  show("a prefix that is longer", peer:receive(2, "abcdef"))
  peer:settimeout(0)
  show("the rest", peer:receive "*a")
  show("nothing with a prefix", peer:receive("*a", "pre"))
  show("no line", peer:receive("*l", "pre"))
  show("no bytes", peer:receive(5, "pre"))
  show("half a byte", peer:receive(0.5))
  show_error("a bad pattern", peer.receive, peer, "*x")
  show_error("a bad pattern", peer.receive, peer, "l")
  show_error("a bad pattern", peer.receive, peer, -1)
  show_error("a bad pattern", peer.receive, peer, {})
  for _, range in ipairs { { 2, 4 }, { -2 }, { 5 }, { 1, 100 }, { 3, 1 }, { 0, 0 }, { -10, 2 },
    { 2.0, -2 }, { 7 } } do
    show("a range", client:send("abcdef", range[1], range[2]))
  end
  show("a number", client:send(12))
  show_error("no data", client.send, client)
  show_error("bad data", client.send, client, {})
  show("received and sent", select(2, client:getstats()) > 0, (client:getstats()))
  show("setstats", client:setstats(5, 6, 7))
  local received, sent, age = client:getstats()
  show("stats", received, sent, age >= 7 and age < 8)
  peer:settimeout(0.2)
  show("part of a line", peer:receive())
  show("shutdown", client:shutdown "send")
  show("send after it", client:send "x")
  peer:settimeout(5)
  show("the end", peer:receive "*a")
  show("after it", peer:receive "*a")
  show("after it", peer:receive())
  show("after it", peer:receive(1))
  show("after it", peer:receive(0))
  show("the other direction", peer:send "back\n")
  show("arrives", client:receive())
  show_error("a bad shutdown", client.shutdown, client, "nix")
  show("close", peer:close())
  show("again", peer:close())
  show("closed", peer:receive())
  show("closed", peer:send "abc")
  show("closed", peer:getsockname())
  show("closed", peer:getpeername())
  show("closed", peer:getfd())
  show("closed", peer:shutdown())
  show("closed", peer:dirty())
  show("closed", peer)
  close(client, server)
end

-- Ends ------------------------------------------------------------------------------------------

do
  for _, pattern in ipairs { "*l", "*a", 10 } do
    local client, peer, server = pair()
    peer:send "abc"
    peer:close()
    show("the end in the middle", client:receive(pattern))
    show("and after it", client:receive(pattern, "pre"))
    close(client, server)
  end
  for _, pattern in ipairs { "*l", "*a", 10 } do
    local client, peer, server = pair()
    peer:close()
    show("nothing at all", client:receive(pattern, "pre"))
    close(client, server)
  end
  local client, peer, server = pair()
  peer:close()
  socket.sleep(0.02)
  show("a send that nobody gets", client:send "a")
  socket.sleep(0.02)
  show("the next one", client:send "b")
  show("and a receive", client:receive())
  close(client, server)
end

-- Time ------------------------------------------------------------------------------------------

do
  local client, peer, server = pair()
  for _, case in ipairs { { 1, "t" }, { 2, "b" }, { 0.5 }, { 3, "total" }, { -1 }, { nil, "t" } } do
    show("settimeout", client:settimeout(case[1], case[2]))
    show("gettimeout", client:gettimeout())
  end
  show_error("a bad mode", client.settimeout, client, 1, "x")
  for _, mode in ipairs { "b", "t" } do
    client:settimeout(nil, "b")
    client:settimeout(nil, "t")
    client:settimeout(0.05, mode)
    local start = socket.gettime()
    show("receive in time", client:receive())
    local took = socket.gettime() - start
    show("it waited", took >= 0.04 and took < 2)
  end
  client:settimeout(nil, "t")
  client:settimeout(0.05)
  local last, err, partial = client:send(("x"):rep(20000000))
  show("a send that finds no reader", last, err, partial > 0 and partial < 20000000)
  close(client, peer, server)
end

-- select ----------------------------------------------------------------------------------------

do
  local function sets(label, readers, writers, err, ...)
    local counts = {}
    for i, object in ipairs { ... } do
      counts[i] = tostring(readers[object] or writers[object])
    end
    show(label, #readers, #writers, err, table.concat(counts, " "))
  end
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  local client = assert(socket.connect("127.0.0.1", port))
  local r, w, err = socket.select({ server }, { client }, 5)
  sets("a client comes", r, w, err, server, client)
  local peer = server:accept()
  r, w, err = socket.select({ peer }, nil, 0.02)
  sets("nothing to read", r, w, err, peer)
  r, w, err = socket.select({ peer, server }, {}, 0)
  sets("at once", r, w, err, peer)
  client:send "a\nb\n"
  r, w, err = socket.select({ server, peer }, { peer }, 5)
  sets("something", r, w, err, peer, server)
  show("a line", peer:receive())
  r, w, err = socket.select({ peer }, nil, 0)
  sets("read ahead", r, w, err, peer)
  show("dirty", peer:dirty(), peer:receive())
  client:close()
  r, w, err = socket.select({ peer }, nil, 5)
  sets("the end", r, w, err, peer)
  show("it is", peer:receive())
  peer:close()
  r, w, err = socket.select({ peer, {} }, { {} }, 0.01)
  sets("nobody", r, w, err, peer)
  sets("nothing", socket.select(nil, nil, 0))
  show_error("a bad list", socket.select, 5)
  local late = socket.tcp()
  late:settimeout(0)
  show("connect later", late:connect("127.0.0.1", port))
  r, w, err = socket.select(nil, { late }, 5)
  sets("it is there", r, w, err, late)
  show("connect again", late:connect("127.0.0.1", port))
  show("and again", late:connect("127.0.0.1", port))
  show("connected", late, (late:getpeername()))
  close(late, server)
end

-- Datagrams -------------------------------------------------------------------------------------

do
  local one, two = socket.udp(), socket.udp()
  show("udp", one, (one:gettimeout()))
  show("bind", one:setsockname("127.0.0.1", 0))
  local host, port, family = one:getsockname()
  show("its name", host, type(port), tonumber(port) > 0, family)
  show("sendto", two:sendto("hello", "127.0.0.1", port))
  local data, from, from_port = one:receivefrom()
  show("receivefrom", data, from, math.type(from_port))
  show("sendto by name", two:sendto("again", "127.0.0.1", tostring(port)))
  show("receive", one:receive())
  two:sendto("0123456789", "127.0.0.1", port)
  show("cut", one:receive(4))
  show("settimeout", one:settimeout(0))
  show("nothing", one:receive())
  show("nothing", one:receivefrom())
  one:settimeout(0.02)
  show("nothing in time", one:receive())
  show("connect", two:setpeername("127.0.0.1", port))
  show("connected", two, (two:getpeername()))
  show("send", two:send "x")
  show_error("sendto when connected", two.sendto, two, "x", "127.0.0.1", port)
  show_error("receivefrom when connected", two.receivefrom, two)
  show_error("send when not", one.send, one, "x")
  one:settimeout(1)
  show("receive", one:receive())
  one:close()
  two:settimeout(1)
  two:send "into the void"
  show("refused", two:receive())
  show("disconnect", two:setpeername "*")
  show("unconnected", two)
  show("option", two:setoption("broadcast", true), two:getoption "broadcast")
  show("too long", two:sendto(("x"):rep(70000), "127.0.0.1", port))
  show("close", two:close(), two:close())
end

-- Groups ----------------------------------------------------------------------------------------

do
  local GROUP = { multiaddr = "239.255.7.8", interface = "127.0.0.1" }
  local one, two = socket.udp4(), socket.udp4()
  one:settimeout(0.2)
  show("bind", one:setsockname("*", 0))
  local _, port = one:getsockname()
  show("join", one:setoption("ip-add-membership", GROUP))
  show("interface", two:setoption("ip-multicast-if", "127.0.0.1"))
  show("loop", two:setoption("ip-multicast-loop", true), two:getoption "ip-multicast-loop")
  show("time to live", two:setoption("ip-multicast-ttl", 1))
  show("sendto a group", two:sendto("to all", GROUP.multiaddr, port))
  show("hears it", one:receive())
  show("leave", one:setoption("ip-drop-membership", GROUP))
  show("again", one:setoption("ip-drop-membership", GROUP))
  show("sendto a group", two:sendto("to nobody", GROUP.multiaddr, port))
  show("hears nothing", one:receive())
  show("no loop", two:setoption("ip-multicast-loop", false), two:getoption "ip-multicast-loop")
  close(one, two)
end

-- try, protect, skip, sources and sinks ---------------------------------------------------------

do
  show("skip", socket.skip(2, 1, 2, 3, nil))
  show("try", socket.try(1, nil, 3))
  local finalized = 0
  local try = socket.newtry(function()
    finalized = finalized + 1
  end)
  show("protect", socket.protect(function(...) return ... end)(1, nil, 3))
  show("protect", socket.protect(function() try(nil, "an error", 3) end)())
  show("protect", socket.protect(function() try(false, nil) end)())
  show("finalized", finalized)
  show_error("an error of another kind", socket.protect(function() error("plain", 0) end))
  show("nested", socket.protect(function()
    return socket.protect(function() try(nil, "inner") end)()
  end)())
  local client, peer, server = pair()
  local sink = socket.sink("close-when-done", client)
  show("sink", sink "some data", sink:getfd() == client:getfd(), sink:dirty())
  show("sink's end", sink(nil))
  local source = socket.source("by-length", peer, 4)
  show("source", source(), source())
  source = socket.source("until-closed", peer)
  show("source", source(), source())
  show_error("no such source", socket.source, "nonsense", peer)
  close(client, peer, server)
  show("toip", (socket.dns.toip "localhost"))
  show("toip", socket.dns.toip "a..b")
  show("tohostname", (socket.dns.tohostname "127.0.0.1"))
  show("gethostname", socket.dns.gethostname())
  show("getaddrinfo", socket.dns.getaddrinfo("127.0.0.1")[1].addr)
  show("gettime", math.abs(socket.gettime() - os.time()) < 2)
end

-- Misuse ----------------------------------------------------------------------------------------

do
  local client, peer, server = pair()
  for _, code in ipairs {
    "client:receive 'l'", "client:receive(-1)", "client:receive {}", "client:receive('*l', {})",
    "client:send()", "client:send {}", "client:send('x', 'y')", "client:send('x', 1, {})",
    "client:settimeout 'x'", "client:settimeout(1, 'q')", "client:settimeout(1, {})",
    "client:setoption()", "client:setoption('nonsense', 1)", "client:setoption('keepalive', 1)",
    "client:setoption('error', 1)", "client:getoption()", "client:getoption 'nonsense'",
    "client:accept()", "client:shutdown(1)", "client:setfd()", "client:setfd 'x'",
    "client:connect()", "client:connect '127.0.0.1'", "server:send 'x'", "server:receive()",
    "client.receive()", "client.receive 'x'", "client.settimeout(5)", "client.close()",
    "client.getoption 'linger'", "client.getpeername {}", "server.accept(client)",
    "socket.tcp():listen 'x'", "socket.tcp():setpeername()", "socket.tcp():setpeername 'x'",
    "socket.tcp():bind()", "socket.tcp():bind('127.0.0.1', {})", "socket.tcp():setsockname()",
    "socket.connect()", "socket.connect '127.0.0.1'", "socket.connect({}, 1)",
    "socket.connect('127.0.0.1', 1, {})", "socket.connect('127.0.0.1', 1, '127.0.0.1', {})",
    "socket.sleep()", "socket.sleep 'x'", "socket.skip 'x'", "socket.select(1)",
    "socket.select(nil, 1)", "socket.select(nil, nil, 'x')", "socket.dns.toip()",
    "socket.dns.tohostname {}", "socket.dns.getaddrinfo()",
    "socket.udp():sendto()", "socket.udp():sendto 'x'", "socket.udp():sendto('x', '127.0.0.1')",
    "socket.udp():receive 'x'", "socket.udp():receivefrom {}", "socket.udp():setsockname()",
    "socket.udp():setpeername()", "socket.udp():setpeername '127.0.0.1'", "socket.udp():send 'x'",
    "socket.udp():getpeername()", "socket.udp():settimeout {}", "socket.udp().receive()",
    "socket.udp():setoption('ip-add-membership', 1)",
    "socket.udp():setoption('ip-add-membership', {})",
  } do
    -- Not a tail call, after which nobody knows how the function was called.
    local fn = assert(load("local socket, client, server = ...\nlocal _ = " .. code, "=user"))
    local ok, message = pcall(fn, socket, client, server)
    print(code, ok, (tostring(message):gsub("0x%x+", "ADDRESS")))
  end
  show("a port that is none", socket.tcp():connect("127.0.0.1", -5))
  show("a service that is none", socket.tcp():bind("127.0.0.1", "no-such-service"))
  show("from here", socket.connect("127.0.0.1", 1, "127.0.0.1", 0))
  show("by IPv4", socket.connect4("127.0.0.1", 1))
  show("by IPv6", socket.connect6("::1", 1))
  for _, host in ipairs { "*", "localhost", "::1" } do
    local listening = assert(socket.bind(host, 0))
    local address, port = listening:getsockname()
    show("where it listens", address)
    local to = ({ ["*"] = "127.0.0.1" })[host] or host
    local from = assert(socket.connect(to, port, to, 0))
    show("connected from", (from:getsockname()), (from:getpeername()))
    close(from, listening)
  end
  close(client, peer, server)
end

-- Random data, random pieces, random patterns ----------------------------------------------------

do
  math.randomseed(seed)
  local client, peer, server = pair()
  peer:settimeout(0)
  local alphabet = { "a", "b", "\n", "\r", "\r\n", "\0", "zz" }
  for _ = 1, 300 do
    local pieces = {}
    for i = 1, math.random(0, 40) do
      pieces[i] = alphabet[math.random(#alphabet)]
    end
    local data = table.concat(pieces)
    if data ~= "" then
      client:send(data)
      socket.select({ peer }, nil, 5)
      socket.sleep(0.0005) -- all of it
    end
    for _ = 1, math.random(1, 4) do
      local pattern = ({ "*l", "*l", "*a", math.random(1, 30) })[math.random(4)]
      local prefix = math.random(3) == 1 and ("p"):rep(math.random(0, 5)) or nil
      local got, err, partial = peer:receive(pattern, prefix)
      print(("%s %q %q %s %q"):format(pattern, prefix or "-", got or "-", err, partial or "-"))
    end
  end
  close(client, peer, server)
end
