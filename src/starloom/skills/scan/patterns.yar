// Patterns of attack tools in bytes. Each joins two or more traits: one word alone proves nothing.
// Families after public write-ups of the tools themselves; no string is taken from a sample.

rule reverse_shell_in_a_binary {
  strings:
    $sh = /\/bin\/(ba|da|z)?sh\x00/
    $dup = "dup2"
    $connect = "connect"
    $socket = "socket"
    $args = "-i\x00"
  condition:
    (uint32(0) == 0x464c457f or uint32(0) == 0xfeedfacf or uint16(0) == 0x5a4d) and filesize < 200KB and $sh and $dup and $connect and $socket and $args
}

rule coin_miner {
  strings:
    $stratum = "stratum+tcp://" ascii wide
    $stratum_tls = "stratum+ssl://" ascii wide
    $job = "\"method\":\"login\"" ascii
    $algo = /(randomx|cryptonight|rx\/0|kawpow|ethash)/ ascii nocase
    $donate = "donate-level" ascii
    $wallet = /\b4[0-9AB][1-9A-HJ-NP-Za-km-z]{93}\b/ ascii
  condition:
    2 of them
}

rule wallet_or_browser_stealer {
  strings:
    $login = "Login Data" ascii wide
    $cookies = "Cookies" ascii wide
    $state = "Local State" ascii wide
    $dpapi = "CryptUnprotectData" ascii wide
    $wallet = /(Exodus|Electrum|Atomic|MetaMask|Phantom)/ ascii wide
    $discord = "discord" ascii wide nocase
    $send = /(api\.telegram\.org\/bot|discord(app)?\.com\/api\/webhooks|gofile\.io)/ ascii wide
  condition:
    $send and 3 of ($login, $cookies, $state, $dpapi, $wallet, $discord)
}

rule packed_by_upx {
  strings:
    $a = "UPX!"
    $b = "UPX0"
    $info = "This file is packed with the UPX"
  condition:
    (uint32(0) == 0x464c457f or uint16(0) == 0x5a4d) and ($info or ($a and $b))
}

rule office_macro_that_starts_programs {
  strings:
    $auto = /(AutoOpen|Auto_Open|Document_Open|Workbook_Open)/ ascii wide nocase
    $shell = /(WScript\.Shell|Shell\.Application|powershell|CreateObject)/ ascii wide nocase
    $get = /(URLDownloadToFile|MSXML2\.XMLHTTP|ADODB\.Stream|cmd \/c)/ ascii wide nocase
  condition:
    $auto and $shell and $get
}

rule pdf_that_acts {
  strings:
    $pdf = "%PDF-"
    $launch = "/Launch" 
    $js = /\/JavaScript|\/JS\s/
    $open = "/OpenAction"
  condition:
    $pdf at 0 and $open and $launch and $js
}

rule web_shell {
  strings:
    $php = "<?php"
    $run = /(eval|assert|system|shell_exec|passthru)\s*\(\s*(base64_decode|gzinflate|str_rot13|\$_(GET|POST|REQUEST|COOKIE))/ nocase
  condition:
    $php and $run
}

rule pickle_that_calls_programs {
  strings:
    $protocol = { 80 (02 | 03 | 04 | 05) }
    $text = /c(os|posix|nt|subprocess|builtins|__builtin__)\n(system|popen|Popen|check_output|exec|eval)\n/
    $global = /\x8c.(os|posix|nt|subprocess|builtins)\x94\x8c.(system|popen|Popen|check_output|exec|eval)\x94/
  condition:
    ($protocol at 0 and ($text or $global)) or ($text at 0)
}

rule shell_code_loader {
  strings:
    $alloc = "VirtualAlloc" ascii wide
    $thread = "CreateRemoteThread" ascii wide
    $write = "WriteProcessMemory" ascii wide
    $amsi = "AmsiScanBuffer" ascii wide
    $mmap = "mprotect"
  condition:
    ($alloc and $write and $thread) or ($amsi and ($alloc or $mmap))
}
