-- SPDX-License-Identifier: MIT
--
-- The network: TCP and Unix sockets as streams.
--
-- The C core connects to and listens at one address; what is said with tasks and scopes is written
-- here: names, several addresses at once (RFC 8305, "happy eyeballs"). Servers are in
-- concur.net_server, datagrams in concur.net_udp.

local concur = require "concur"
local core = require "concur.core"
local errors = require "concur.errors"
local arguments = require "concur.arguments"

local bad_argument, misuse = arguments.bad, arguments.misuse

local net = {}

local ATTEMPT_DELAY = 0.25 -- seconds between two attempts (RFC 8305, section 5)
local RETRY_FIRST, RETRY_MOST = 0.01, 1 -- seconds between two tries while a server's queue is full

-- ---------------------------------------------------------------------------------------------
-- Arguments
-- ---------------------------------------------------------------------------------------------

local CONNECT_OPTIONS = {
  path = "string", local_address = "string", local_port = "number", nodelay = "boolean",
  keepalive = "any", family = "string", resolver = "function", attempt_delay = "number",
}
local LISTEN_OPTIONS = {
  path = "string", backlog = "number", reuseport = "boolean", ipv6only = "boolean",
  nodelay = "boolean", keepalive = "any", family = "string", resolver = "function",
}
local ACCEPT_OPTIONS = { nodelay = "boolean", keepalive = "any" }
local SERVE_OPTIONS = { limit = "number", grace = "number", on_error = "function",
  on_listen = "function" }

local function is_port(value)
  local number = math.tointeger(value)
  return number ~= nil and number >= 0 and number <= 65535, "a port"
end

-- What a value must be, besides its type; NaN is none of it.
local CHECKS = {
  local_address = function(value) return core.ip_family(value), "an IP address" end,
  local_port = is_port,
  backlog = function(value)
    return math.type(value) == "integer" and value >= 1 and value < 2 ^ 31, "a count, at least 1"
  end,
  keepalive = function(value)
    local seconds = type(value) == "number" and value > 0 and value <= 32767
    return seconds or type(value) == "boolean", "a boolean or seconds from 1 to 32767"
  end,
  family = function(value) return value == "inet" or value == "inet6", "'inet' or 'inet6'" end,
  limit = function(value) return value >= 1, "at least 1" end,
  grace = function(value) return value == value, "a number of seconds" end,
  attempt_delay = function(value) return value == value, "a number of seconds" end,
}

-- Raises when the options are not a table, or one of them is unknown or of a wrong type.
local function check_options(name, options, position, ...)
  if options == nil then
    return {}
  elseif type(options) ~= "table" then
    bad_argument(position, name, "options expected, got %s", type(options))
  end
  for key, value in pairs(options) do
    local expected
    for _, known in ipairs { ... } do
      expected = expected or known[key]
    end
    if key == "timeout" then
      bad_argument(position, name,
        "unknown option 'timeout': use concur.timeout(s, ...) around it")
    elseif not expected then
      bad_argument(position, name, "unknown option '%s'", tostring(key))
    elseif expected ~= "any" and type(value) ~= expected then
      bad_argument(position, name, "option '%s' must be a %s, not a %s", key, expected,
        type(value))
    elseif CHECKS[key] then
      local ok, wanted = CHECKS[key](value)
      if not ok then
        bad_argument(position, name, "option '%s' must be %s, not %s", key, wanted,
          tostring(value))
      end
    end
  end
  return options
end

local function check_host(name, position, host, port)
  local number = math.tointeger(tonumber(port)) -- "80" as well, from an address in a text
  if type(host) ~= "string" then
    bad_argument(position, name, "host expected, got %s", type(host))
  elseif core.host_problem(host) then
    bad_argument(position, name, "%s", core.host_problem(host))
  elseif not number or number < 0 or number > 65535 then
    bad_argument(position + 1, name, "port expected, got %s", tostring(port))
  end
  return number
end

local function check_descriptor(name, fd)
  if math.type(fd) ~= "integer" or fd < 0 or fd >= 2 ^ 31 then
    bad_argument(1, name, "not a descriptor")
  end
end

-- `name(host, port, options)` or `name{path=...}`, the host being the argument at `position`:
-- host (nil for a path), port, options.
local function check_target(name, position, host, port, options, ...)
  if type(host) == "table" then
    options = check_options(name, host, position, ...)
    if not options.path then
      bad_argument(position, name, "option 'path' is missing")
    end
    local problem = core.path_problem(options.path)
    if problem then
      bad_argument(position, name, "option 'path': %s", problem)
    end
    return nil, nil, options
  end
  port = check_host(name, position, host, port)
  options = check_options(name, options, position + 2, ...)
  if options.path then
    bad_argument(position + 2, name, "option 'path' goes without a host: {path=...}")
  end
  return host, port, options
end

-- ---------------------------------------------------------------------------------------------
-- Names
-- ---------------------------------------------------------------------------------------------

-- What a user's resolver returned: raises unless it is a list of addresses.
local function check_resolved(list)
  if type(list) ~= "table" then
    misuse("option 'resolver' must return a list, or nil and an error; not a %s", type(list))
  end
  for i, entry in ipairs(list) do
    local address = type(entry) == "table" and entry.address
    if type(address) ~= "string" or not core.ip_family(address) then
      misuse("option 'resolver' must return IP addresses; that of entry %d is %s", i,
        tostring(address))
    elseif entry.port ~= nil and not is_port(entry.port) then
      misuse("option 'resolver' must return ports; that of entry %d is %s", i, tostring(entry.port))
    end
  end
end

-- The addresses of a host, in the order in which to try them; or nil, err. What is no IP address is
-- a name, for the resolver to know or not: "127.0.0.1:80", "http://[::1]", "1::2::3".
local function addresses_of(host, port, options)
  local family = core.ip_family(host)
  if family and family == (options.family or family) then
    return { { address = host, port = port, family = family } }
  end
  local resolver = options.resolver or require("concur.dns").resolve
  local list, err = resolver(host, port, { family = options.family })
  if not list then
    return nil, err
  end
  check_resolved(list)
  if #list == 0 then
    return nil, errors.new("OSError", ("%s: the name has no address"):format(host),
      { code = "EAI_NODATA", call = "resolve", address = host })
  end
  return list
end

-- First the family of the first address, then alternating (RFC 8305, section 4).
local function interleave(list)
  local queues = { {}, {} }
  for _, entry in ipairs(list) do
    local queue = queues[entry.family == list[1].family and 1 or 2]
    queue[#queue + 1] = entry
  end
  local ordered = {}
  for i = 1, #list do
    ordered[#ordered + 1] = queues[1][i]
    ordered[#ordered + 1] = queues[2][i]
  end
  return ordered
end

-- ---------------------------------------------------------------------------------------------
-- Connecting
-- ---------------------------------------------------------------------------------------------

-- One error for several attempts: the first one, and all of them in its text.
local function merge_errors(host, port, failures)
  local first = failures[1]
  if #failures > 1 then
    local texts = {}
    for i, failure in ipairs(failures) do
      texts[i] = failure.message
    end
    first.message = ("connect %s:%d: all %d addresses failed: %s"):format(host, port, #failures,
      table.concat(texts, "; "))
  end
  return first
end

-- Several addresses: the next attempt starts when the one before has failed or `delay` is over, and
-- the first connection wins.
local function connect_any(host, port, list, options)
  local delay = options.attempt_delay or ATTEMPT_DELAY
  local winner
  local given = false
  local failures = {}
  local _ <close> = setmetatable({}, { __close = function() -- cancelled or killed after all
    if winner and not given then
      winner:close(0)
    end
  end })
  concur.task_group(function(group)
    for i, entry in ipairs(list) do
      local failed = concur.Event()
      group:spawn(function()
        local stream, err = core.connect_tcp(entry.address, entry.port or port, options)
        if stream and winner then
          stream:close(0)
        elseif stream then
          winner = stream
          group:cancel()
        else
          failures[#failures + 1] = err
          failed:set()
        end
      end)
      if i < #list then
        concur.move_on_after(delay, failed.wait, failed)
      end
    end
  end)
  if winner then
    given = true
    return winner
  end
  return nil, merge_errors(host, port, failures)
end

-- A Unix server whose queue is full answers EAGAIN at once, where a blocking connect would wait.
local function connect_path(path)
  local delay = RETRY_FIRST
  while true do
    concur.checkpoint()
    local stream, err = core.connect_unix(path)
    if stream or err.code ~= "EAGAIN" then
      return stream, err
    end
    concur.sleep(delay)
    delay = math.min(delay * 2, RETRY_MOST)
  end
end

---Connects to a TCP server, or with `connect{path=...}` to a Unix socket (a path that begins with a
---zero byte is an abstract name, on Linux).
---
---A name can have several addresses: they are tried in turn, IPv6 and IPv4 alternating, each for
---`attempt_delay` seconds before the next one is started too, and the first connection wins (RFC
---8305). Cancelled, nothing stays open.
---
---Options: `path`; `local_address`, `local_port`: where to connect from; `nodelay` (true);
---`keepalive`: true or seconds; `family`: "inet" or "inet6", only such addresses; `attempt_delay`
---(0.25); `resolver`: `function(host, port, options)` in place of `concur.dns.resolve`.
---@async
---@param host string|table a name or an IP number; or the options, with `path`
---@param port? integer
---@param options? table
---@return concur.Stream? stream
---@return concur.Error? error `OSError`, with the address in its message
function net.connect(host, port, options)
  host, port, options = check_target("connect", 1, host, port, options, CONNECT_OPTIONS)
  if not host then
    return connect_path(options.path)
  end
  local list, err = addresses_of(host, port, options)
  if not list then
    return nil, err
  elseif #list == 1 then
    return core.connect_tcp(list[1].address, list[1].port or port, options)
  end
  return connect_any(host, port, interleave(list), options)
end

-- ---------------------------------------------------------------------------------------------
-- Listening
-- ---------------------------------------------------------------------------------------------

-- All addresses of this machine: IPv6 with IPv4 in it, or IPv4 alone where there is no IPv6.
local function listen_everywhere(port, options)
  local listener, err
  if options.family ~= "inet" then
    listener, err = core.listen_tcp("::", port, options)
    if listener or options.family == "inet6"
      or err.code ~= "EAFNOSUPPORT" and err.code ~= "EADDRNOTAVAIL" then
      return listener, err
    end
  end
  return core.listen_tcp("0.0.0.0", port, options)
end

local function listen_at(host, port, options)
  if not host then
    return core.listen_unix(options.path, options)
  elseif host == "*" then
    return listen_everywhere(port, options)
  end
  local list, err = addresses_of(host, port, options)
  if not list then
    return nil, err
  end
  return core.listen_tcp(list[1].address, list[1].port or port, options)
end

---Listens for TCP connections, or with `listen{path=...}` at a Unix socket.
---
---Options: `path`; `backlog` (1024); `reuseport`: several listeners, in several threads or
---processes, share the port; `ipv6only`; for the connections that are accepted `nodelay` (true) and
---`keepalive`; `family`, `resolver` as for `connect`. Suspends only to look up a name.
---@async
---@param host string|table "127.0.0.1", "::1", "*" (all addresses of this machine), a name; or the
---  options, with `path`
---@param port? integer 0: the system chooses, `listener:address()` tells
---@param options? table
---@return concur.Listener? listener
---@return concur.Error? error `OSError` (`EADDRINUSE`, `EACCES`, ...), with the address in its message
function net.listen(host, port, options)
  return listen_at(check_target("listen", 1, host, port, options, LISTEN_OPTIONS))
end

-- ---------------------------------------------------------------------------------------------
-- Servers
-- ---------------------------------------------------------------------------------------------

local function is_listener(value)
  return type(value) == "userdata" and getmetatable(value) == "concur.Listener"
end

local function callable(value)
  local metatable = debug.getmetatable(value)
  return type(value) == "function" or (metatable and metatable.__call) ~= nil
end

---Serves connections: each one is a task that calls `handler(stream)`, and its stream is closed when
---that returns. An error of a handler ends its connection and is reported, the server goes on.
---
---It ends when its listener is closed (then it returns true) or when it is cancelled: nothing is
---accepted any more, handlers have `grace` seconds to finish, then they are cancelled too, and all
---of them have ended when it returns.
---
---Options, besides those of `listen`: `limit`: at most so many connections at a time, others wait in
---the system's queue; `grace` (5); `on_error(err, stream)` gets errors of handlers, and errors of
---accepting without a stream, instead of the loop's `on_error`; `on_listen(listener)` is called once
---it listens.
---@async
---@param handler fun(stream: concur.Stream)
---@param host string|table|concur.Listener as for `listen`; or a listener that is there already
---@param port? integer|table of a listener that is there already: the options
---@param options? table
---@return boolean? true
---@return concur.Error? error it could not listen
function net.serve(handler, host, port, options)
  if not callable(handler) then
    bad_argument(1, "serve", "handler expected, got %s", type(handler))
  end
  if is_listener(host) then
    options = check_options("serve", port, 3, SERVE_OPTIONS)
    if host:closed() then
      error(errors.new("Closed", "serve: the listener is closed"), 0)
    end
  else
    host, port, options = check_target("serve", 2, host, port, options, LISTEN_OPTIONS,
      SERVE_OPTIONS)
  end
  local server = require "concur.net_server"
  local listener = host
  if not is_listener(host) then
    local err
    listener, err = listen_at(host, port, options)
    if not listener then
      return nil, err
    end
  end
  local _ <close> = listener
  return server.serve(handler, listener, options)
end

-- ---------------------------------------------------------------------------------------------
-- Descriptors
-- ---------------------------------------------------------------------------------------------

---Two streams that are connected to each other (Unix sockets without a name). Never suspends.
---@return concur.Stream? one
---@return concur.Stream|concur.Error other or an `OSError`
function net.socketpair()
  return core.socketpair()
end

---A stream on a descriptor that is there already: a pipe, a TCP or a Unix socket that is connected.
---When this succeeded the descriptor belongs to the stream; it is set to non-blocking. Never
---suspends.
---@param fd integer
---@return concur.Stream?
---@return concur.Error? error `OSError`: not a pipe or stream socket, not open
function net.from_fd(fd)
  check_descriptor("from_fd", fd)
  return core.stream_from_fd(fd)
end

---A listener on a socket that listens already, made elsewhere (by systemd, another program). When
---this succeeded the descriptor belongs to the listener. Never suspends.
---@param fd integer
---@param options? table `nodelay`, `keepalive` of the connections
---@return concur.Listener?
---@return concur.Error? error
function net.listen_fd(fd, options)
  check_descriptor("listen_fd", fd)
  return core.listen_fd(fd, check_options("listen_fd", options, 2, ACCEPT_OPTIONS))
end

---Waits until a descriptor that somebody else reads and writes is ready: a descriptor, a Lua file, or
---an object with the method `pollfd` (cqueues) or `getfd` (LuaSocket). Raises `TimeoutError`.
---@async
---@param what integer|file*|table|userdata
---@param mode? "r"|"w"|"rw" default: what the object's method `events` says, else "r"
---@param timeout? number seconds; nil: no limit
---@return "r"|"w"|"rw"|nil ready what would not block now
---@return concur.Error? error `OSError`: not open (EBADF), no descriptor left (EMFILE)
net.wait_fd = core.wait_fd

---A socket for datagrams, bound to an address of this machine. Suspends only to look a name up.
---
---Options: `family`: "inet" or "inet6", for a name or without a host; `reuseaddr`, `reuseport`,
---`ipv6only`; and those of `Udp:set`: `broadcast`, `ttl`, `multicast_ttl`, `multicast_loop`,
---`multicast_interface`, `receive_buffer`, `send_buffer`.
---@async
---@param host? string a number or a name; nil or "*": all addresses (of IPv4, if no family is given)
---@param port? integer 0 or nil: the system chooses
---@param options? table
---@return concur.Udp?
---@return concur.Error? error `OSError`: `EADDRINUSE`, ...
function net.udp(host, port, options)
  return require("concur.net_udp").udp(host, port, options)
end

return net
