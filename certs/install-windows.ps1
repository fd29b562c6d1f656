<#
.SYNOPSIS
    Puts pullthrough's CA into the trusted roots of this machine, looks whether it is there, or takes it out.
.DESCRIPTION
    install-windows.ps1 check     CA.pem    0 if the machine trusts it, 1 if not
    install-windows.ps1 install   CA.pem    may be repeated
    install-windows.ps1 uninstall CA.pem    may be repeated

    Compare the fingerprint that it prints with "pullthrough ca show", or give it with -Fingerprint.
    install and uninstall need an elevated PowerShell. Docker Desktop takes CAs from there when it starts.
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory = $true, Position = 0)]
    [ValidateSet('check', 'install', 'uninstall')]
    [string] $Action,

    [Parameter(Mandatory = $true, Position = 1)]
    [string] $CaFile,

    [string] $Fingerprint = ''
)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$Store = 'Cert:\LocalMachine\Root'

function Get-Sha256([System.Security.Cryptography.X509Certificates.X509Certificate2] $Certificate) {
    $sha256 = [System.Security.Cryptography.SHA256]::Create()
    try {
        return [System.BitConverter]::ToString($sha256.ComputeHash($Certificate.RawData)).Replace('-', ':')
    }
    finally {
        $sha256.Dispose()
    }
}

function Test-Elevated {
    $identity = [System.Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = New-Object System.Security.Principal.WindowsPrincipal($identity)
    return $principal.IsInRole([System.Security.Principal.WindowsBuiltInRole]::Administrator)
}

$path = (Resolve-Path -LiteralPath $CaFile).ProviderPath
$ca = New-Object System.Security.Cryptography.X509Certificates.X509Certificate2($path)
$found = Get-Sha256 $ca
Write-Output "SHA-256 fingerprint $found"
if ($Fingerprint -and ($Fingerprint -replace '^sha256:', '' -replace '[: ]', '') -ne $found.Replace(':', '')) {
    Write-Error 'This is not the CA of -Fingerprint; nothing was changed.' -ErrorAction Continue
    exit 1
}

$entry = Join-Path $Store $ca.Thumbprint
$trusted = Test-Path -LiteralPath $entry

if ($Action -eq 'check') {
    if ($trusted) { Write-Output "trusted: it is in $Store" } else { Write-Output "not trusted: it is not in $Store" }
    exit [int](-not $trusted)
}
if ($trusted -eq ($Action -eq 'install')) {
    Write-Output 'nothing to do'
    exit 0
}
if (-not (Test-Elevated)) {
    Write-Error "$Action needs an elevated PowerShell (Run as administrator)." -ErrorAction Continue
    exit 1
}
if ($Action -eq 'install') {
    Import-Certificate -FilePath $path -CertStoreLocation $Store | Out-Null
    Write-Output "trusted: it is in $Store"
}
else {
    Remove-Item -LiteralPath $entry
    Write-Output "removed from $Store"
}
