-- SPDX-License-Identifier: MIT
--
-- Datagrams: what the C core (csrc/udp.c) does for numbers of hosts, here for names. concur.net
-- gives `udp` to users.

local concur = require "concur"
local core = require "concur.core"

local M = {}

local UDP_OPTIONS = {
  reuseaddr = "boolean", reuseport = "boolean", ipv6only = "boolean", family = "string",
  broadcast = "boolean", ttl = "integer", multicast_ttl = "integer", multicast_loop = "boolean",
  multicast_interface = "string", receive_buffer = "integer", send_buffer = "integer",
}
local ANY = { inet = "0.0.0.0", inet6 = "::" }

local methods = core.udp_methods
local send_to, connect = methods.send_to, methods.connect

-- The first address of a host, as a number; or nil, err. A number of another family is as unknown as
-- a name that has none of this one.
local function number_of(host, family)
  local is = core.ip_family(host)
  if is and is == (family or is) then
    return host
  end
  local list, err = concur.dns.resolve(host, nil, { type = "udp", family = family })
  return list and list[1].address, err
end

-- The family of addresses that a socket can send to.
local function family_of(socket)
  local host = socket:address()
  return host and (host:find(":", 1, true) and "inet6" or "inet") or nil
end

-- The C functions would count the socket as an argument, and name this file as the place.
local function check_target(name, position, host, port)
  local number = math.tointeger(tonumber(port))
  if type(host) ~= "string" then
    error(("bad argument #%d to '%s' (host expected, got %s)"):format(position, name,
      type(host)), 3)
  elseif core.host_problem(host) then
    error(("bad argument #%d to '%s' (%s)"):format(position, name, core.host_problem(host)), 3)
  elseif not number or number < 0 or number > 65535 then
    error(("bad argument #%d to '%s' (port expected, got %s)"):format(position + 1, name,
      tostring(port)), 3)
  end
end

function methods.send_to(socket, data, host, port)
  if type(data) ~= "string" and type(data) ~= "number" then
    error(("bad argument #1 to 'send_to' (string expected, got %s)"):format(type(data)), 2)
  end
  check_target("send_to", 2, host, port)
  if core.ip_family(host) then
    return send_to(socket, data, host, port)
  end
  local number, err = number_of(host, family_of(socket))
  if not number then
    return nil, err
  end
  return send_to(socket, data, number, port)
end

function methods.connect(socket, host, port)
  if host ~= nil then
    check_target("connect", 1, host, port)
  end
  if host == nil or core.ip_family(host) then
    return connect(socket, host, port)
  end
  local number, err = number_of(host, family_of(socket))
  if not number then
    return nil, err
  end
  return connect(socket, number, port)
end

local function check_options(options)
  if options == nil then
    return {}
  elseif type(options) ~= "table" then
    error(("bad argument #3 to 'udp' (options expected, got %s)"):format(type(options)), 3)
  end
  for name, value in pairs(options) do
    local expected = UDP_OPTIONS[name]
    if not expected then
      error(("bad argument #3 to 'udp' (unknown option '%s')"):format(tostring(name)), 3)
    elseif (math.type(value) or type(value)) ~= expected then
      error(("bad argument #3 to 'udp' (option '%s': %s expected, got %s)"):format(name, expected,
        tostring(value)), 3)
    end
  end
  local family = options.family
  if family and not ANY[family] then
    error(("bad argument #3 to 'udp' (option 'family': '%s' is not possible)"):format(family), 3)
  end
  return options
end

-- concur.net.udp; documented there.
function M.udp(host, port, options)
  options = check_options(options)
  port = port == nil and 0 or math.tointeger(tonumber(port)) or port
  if host ~= nil and type(host) ~= "string" then
    error(("bad argument #1 to 'udp' (host expected, got %s)"):format(type(host)), 2)
  elseif host and core.host_problem(host) then
    error(("bad argument #1 to 'udp' (%s)"):format(core.host_problem(host)), 2)
  elseif math.type(port) ~= "integer" or port < 0 or port > 65535 then
    error(("bad argument #2 to 'udp' (port expected, got %s)"):format(tostring(port)), 2)
  end
  if host == nil or host == "*" then
    host = ANY[options.family or "inet"]
  end
  local number, err = number_of(host, options.family)
  if not number then
    return nil, err
  end
  return core.udp(number, port, options)
end

return M
