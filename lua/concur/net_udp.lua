-- SPDX-License-Identifier: MIT
--
-- Datagrams: what the C core (csrc/udp.c) does for numbers of hosts, here for names. concur.net
-- gives `udp` to users.

local concur = require "concur"
local core = require "concur.core"
local bad_argument = require("concur.arguments").bad

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
    bad_argument(position, name, "host expected, got %s", type(host))
  elseif core.host_problem(host) then
    bad_argument(position, name, "%s", core.host_problem(host))
  elseif not number or number < 0 or number > 65535 then
    bad_argument(position + 1, name, "port expected, got %s", tostring(port))
  end
end

function methods.send_to(socket, data, host, port)
  if type(data) ~= "string" and type(data) ~= "number" then
    bad_argument(1, "send_to", "string expected, got %s", type(data))
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
    bad_argument(3, "udp", "options expected, got %s", type(options))
  end
  for name, value in pairs(options) do
    local expected = UDP_OPTIONS[name]
    if not expected then
      bad_argument(3, "udp", "unknown option '%s'", tostring(name))
    elseif (math.type(value) or type(value)) ~= expected then
      bad_argument(3, "udp", "option '%s': %s expected, got %s", name, expected, tostring(value))
    end
  end
  local family = options.family
  if family and not ANY[family] then
    bad_argument(3, "udp", "option 'family': '%s' is not possible", family)
  end
  return options
end

-- concur.net.udp; documented there.
function M.udp(host, port, options)
  options = check_options(options)
  port = port == nil and 0 or math.tointeger(tonumber(port)) or port
  if host ~= nil and type(host) ~= "string" then
    bad_argument(1, "udp", "host expected, got %s", type(host))
  elseif host and core.host_problem(host) then
    bad_argument(1, "udp", "%s", core.host_problem(host))
  elseif math.type(port) ~= "integer" or port < 0 or port > 65535 then
    bad_argument(2, "udp", "port expected, got %s", tostring(port))
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
